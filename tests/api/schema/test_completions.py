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
from api.schema.completions import CompletionRequest


def read(**members: Any) -> CompletionRequest:
    body = {"model": "m", "prompt": "Once", **members}
    return read_request(json.dumps(body).encode(), CompletionRequest).request


def refusal(**members: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(**members)
    return caught.value


@pytest.mark.parametrize(
    ("value", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [(1, 2)]), ([[1], [2]], [(1,), (2,)])],
)
def test_prompt_is_accepted_in_all_forms(value: Any, prompts: list[Any]) -> None:
    assert read(prompt=value).prompt == prompts


def test_prompt_is_required() -> None:
    error = refusal(prompt=None)

    assert type(error) is MissingParameterError
    assert error.param == "prompt"


def test_empty_prompt_is_refused() -> None:
    assert refusal(prompt="").param == "prompt"


@pytest.mark.parametrize("name", sorted(CompletionRequest.refused))
def test_unsupported_parameter_is_refused_with_its_name(name: str) -> None:
    error = refusal(**{name: 1})

    assert type(error) is UnsupportedParameterError
    assert error.param == name


def test_no_parameter_is_both_supported_and_unsupported() -> None:
    assert not CompletionRequest.refused & set(CompletionRequest.model_fields)


@pytest.mark.parametrize("name", ["messages", "max_completion_tokens", "guided_json"])
def test_parameter_of_another_endpoint_is_unknown(name: str) -> None:
    error = refusal(**{name: 1})

    assert type(error) is UnknownParameterError
    assert error.param == name


@pytest.mark.parametrize("logprobs", [6, -1, True])
def test_invalid_logprobs_are_refused(logprobs: Any) -> None:
    assert refusal(logprobs=logprobs).param == "logprobs"


def test_best_of_must_be_n() -> None:
    error = refusal(best_of=3, n=2)

    assert (type(error), error.param) == (UnsupportedParameterError, "best_of")
    assert read(best_of=2, n=2).best_of == 2
