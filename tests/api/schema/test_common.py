import json
from typing import Any

import pytest

from api.errors import ApiError, InvalidRequestError, UnknownParameterError
from api.http.parsing import read_request
from api.schema.common import MAX_TEXTS, Request, StreamOptions, TextRequest, Texts


class Prompted(Request):
    prompt: Texts


def read(**members: Any) -> TextRequest:
    return read_request(json.dumps({"model": "m", **members}).encode(), TextRequest).request


def refusal(**members: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(**members)
    return caught.value


def read_prompt(value: Any) -> list[str | tuple[int, ...]]:
    return read_request(json.dumps({"prompt": value}).encode(), Prompted).request.prompt


def test_only_the_model_is_required() -> None:
    request = read()

    assert request == TextRequest(model="m")
    assert (request.n, request.stop, request.stream) == (1, [], False)
    assert (request.temperature, request.top_p, request.max_tokens, request.seed) == (None,) * 4
    assert (request.presence_penalty, request.frequency_penalty) == (0, 0)


@pytest.mark.parametrize("name", sorted(set(TextRequest.model_fields) - {"model"}))
def test_null_equals_absent(name: str) -> None:
    assert read(**{name: None}) == read()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 0),
        ("temperature", 2),
        ("top_p", 0),
        ("top_p", 1),
        ("n", 1),
        ("n", 128),
        ("max_tokens", 1),
        ("max_tokens", 2**31 - 1),
        ("seed", -(2**63)),
        ("seed", 2**63 - 1),
        ("presence_penalty", -2),
        ("presence_penalty", 2),
        ("frequency_penalty", -2.0),
        ("frequency_penalty", 2.0),
        ("stop", []),
        ("stop", ["a", "b", "c", "d"]),
        ("stop", ["\n"]),
        ("stream", True),
        ("user", ""),
        ("model", "org/name:adapter@1"),
    ],
)
def test_value_at_the_limit_is_accepted(name: str, value: Any) -> None:
    assert getattr(read(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.001),
        ("temperature", 2.001),
        ("temperature", "1"),
        ("temperature", True),
        ("top_p", -0.001),
        ("top_p", 1.001),
        ("top_p", "0.5"),
        ("n", 0),
        ("n", 129),
        ("n", -1),
        ("n", True),
        ("n", "1"),
        ("n", 1.0),
        ("n", 1.5),
        ("n", 10**30),
        ("max_tokens", 0),
        ("max_tokens", 2**31),
        ("max_tokens", "10"),
        ("max_tokens", True),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("seed", "1"),
        ("seed", 1.0),
        ("seed", False),
        ("presence_penalty", -2.001),
        ("presence_penalty", 2.001),
        ("frequency_penalty", -2.001),
        ("frequency_penalty", 2.001),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", 1),
        ("stop", {"a": "b"}),
        ("stream", 1),
        ("stream", "true"),
        ("user", 7),
        ("model", ""),
        ("model", 1),
        ("model", ["m"]),
        ("stream_options", True),
        ("stream_options", []),
    ],
)
def test_value_out_of_range_or_of_another_type_is_refused_with_its_name(
    name: str, value: Any
) -> None:
    error = refusal(**{name: value})

    assert type(error) is InvalidRequestError
    assert error.param == name


@pytest.mark.parametrize(
    ("stop", "param"),
    [([""], "stop[0]"), (["a", ""], "stop[1]"), (["x" * 257], "stop[0]"), (["a", 1], "stop[1]")],
)
def test_invalid_stop_sequence_is_named_by_its_path(stop: list[Any], param: str) -> None:
    assert refusal(stop=stop).param == param


def test_stop_may_be_one_string() -> None:
    assert read(stop="\n").stop == ["\n"]


def test_empty_stop_string_is_refused() -> None:
    assert refusal(stop="").param == "stop[0]"


@pytest.mark.parametrize("options", [{}, {"include_usage": None}, {"include_obfuscation": None}])
def test_stream_options_may_be_empty(options: dict[str, Any]) -> None:
    request = read(stream=True, stream_options=options)

    assert request.stream_options == StreamOptions(include_usage=False)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"include_usage": 1}, "stream_options.include_usage"),
        ({"include_usage": "yes"}, "stream_options.include_usage"),
    ],
)
def test_invalid_stream_option_is_named_by_its_path(options: dict[str, Any], param: str) -> None:
    assert refusal(stream=True, stream_options=options).param == param


def test_unknown_stream_option_is_named_by_its_path() -> None:
    error = refusal(stream=True, stream_options={"colour": 1})

    assert type(error) is UnknownParameterError
    assert error.param == "stream_options.colour"


def test_requests_are_immutable() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read().n = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("a", ["a"]),
        (" ", [" "]),
        (["a"], ["a"]),
        (["a", "b", "a"], ["a", "b", "a"]),
        ([1, 2], [(1, 2)]),
        ([0], [(0,)]),
        ([[1], [2, 3]], [(1,), (2, 3)]),
    ],
)
def test_texts_are_accepted_in_four_forms(value: Any, texts: list[Any]) -> None:
    assert read_prompt(value) == texts


@pytest.mark.parametrize(
    "value",
    [
        "",
        [],
        [""],
        ["a", ""],
        [[]],
        [[1], []],
        [1, "a"],
        ["a", 1],
        ["a", [1]],
        [[1], "a"],
        [1, [2]],
        [True],
        [[True]],
        [1.0],
        [[1.5]],
        [-1],
        [2**31],
        [[-1]],
        [None],
        [{}],
        {},
        1,
        True,
        [[["a"]]],
        [["a"]],
    ],
    ids=repr,
)
def test_any_other_form_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_prompt(value)

    assert caught.value.param == "prompt"


@pytest.mark.parametrize("item", ["", "a"])
def test_more_texts_than_the_limit_are_refused_before_validation(item: Any) -> None:
    with pytest.raises(InvalidRequestError, match="65537 texts are more than the limit"):
        read_prompt([item] * (MAX_TEXTS + 1))


def test_one_text_may_have_any_number_of_token_ids() -> None:
    ids = list(range(MAX_TEXTS + 1))

    assert read_prompt(ids) == [tuple(ids)]
    assert read_prompt([ids]) == [tuple(ids)]
