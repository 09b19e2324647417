import json
from typing import Any

import pytest

from api.errors import (
    ApiError,
    MissingParameterError,
    UnknownParameterError,
    UnsupportedParameterError,
)
from api.http.parsing import read_request
from api.schema.images import ImagesRequest


def read(**members: Any) -> ImagesRequest:
    body = {"model": "m", "prompt": "a dot", **members}
    return read_request(json.dumps(body).encode(), ImagesRequest).request


def refusal(**members: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(**members)
    return caught.value


@pytest.mark.parametrize("sign", ["x", "X", "*", "×"])
def test_size_is_width_times_height(sign: str) -> None:
    assert read(size=f"256{sign}128").size == (256, 128)


def test_size_may_be_auto() -> None:
    assert read(size="auto").size is None


@pytest.mark.parametrize(
    "size",
    [
        "",
        "256",
        "256x",
        "x256",
        "0x256",
        "256x0",
        "-8x8",
        "256 x 256",
        "256x256px",
        "256x256x256",
        "256x256\n",
        " 256x256",
        "256,256",
        "2e2x256",
        "025x256",
        "100000x8",
        "8x100000",
        "٨x8",
        "8x1٨",
        "Auto",
        256,
        [256, 256],
        True,
    ],
)
def test_any_other_size_is_refused(size: Any) -> None:
    assert refusal(size=size).param == "size"


@pytest.mark.parametrize(
    "name",
    sorted((set(ImagesRequest.model_fields) | ImagesRequest.refused) - {"model", "prompt"}),
)
def test_null_equals_absent(name: str) -> None:
    assert read(**{name: None}) == read()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", "x" * 32_000),
        ("n", 1),
        ("response_format", "b64_json"),
        ("negative_prompt", ""),
        ("num_inference_steps", 1),
        ("num_inference_steps", 200),
        ("guidance_scale", 0),
        ("guidance_scale", 100),
        ("seed", 0),
        ("seed", 2**63 - 1),
        ("user", "a"),
    ],
)
def test_value_at_the_limit_is_accepted(name: str, value: Any) -> None:
    assert getattr(read(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", ""),
        ("prompt", "x" * 32_001),
        ("prompt", ["a dot"]),
        ("n", 0),
        ("n", True),
        ("n", "1"),
        ("n", 1.0),
        ("response_format", "png"),
        ("negative_prompt", "x" * 32_001),
        ("num_inference_steps", 0),
        ("num_inference_steps", 201),
        ("num_inference_steps", True),
        ("guidance_scale", -0.1),
        ("guidance_scale", 100.1),
        ("guidance_scale", "5"),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", False),
        ("user", 1),
    ],
)
def test_value_out_of_range_or_of_another_type_is_refused_with_its_name(
    name: str, value: Any
) -> None:
    assert refusal(**{name: value}).param == name


def test_prompt_is_required() -> None:
    error = refusal(prompt=None)

    assert type(error) is MissingParameterError
    assert error.param == "prompt"


@pytest.mark.parametrize("name", sorted(ImagesRequest.refused))
def test_unsupported_parameter_is_refused_with_its_name(name: str) -> None:
    error = refusal(**{name: 1})

    assert type(error) is UnsupportedParameterError
    assert error.param == name


def test_no_parameter_is_both_supported_and_unsupported() -> None:
    assert not ImagesRequest.refused & set(ImagesRequest.model_fields)


def test_unknown_parameter_is_refused_with_its_name() -> None:
    error = refusal(steps=4)

    assert type(error) is UnknownParameterError
    assert error.param == "steps"
