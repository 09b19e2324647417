import json
from typing import Any

import pytest

from api.errors import ApiError, MissingParameterError, UnknownParameterError
from api.http.parsing import read_request
from api.schema.embeddings import EmbeddingsRequest


def read(**members: Any) -> EmbeddingsRequest:
    body = {"model": "m", "input": "a", **members}
    return read_request(json.dumps(body).encode(), EmbeddingsRequest).request


def refusal(**members: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(**members)
    return caught.value


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_every_encoding_format_is_accepted(encoding: str) -> None:
    assert read(encoding_format=encoding).encoding_format == encoding


@pytest.mark.parametrize("name", ["encoding_format", "user", "dimensions", "task", "truncate"])
def test_null_equals_absent(name: str) -> None:
    assert read(**{name: None}) == read()


@pytest.mark.parametrize("encoding", ["bytes", "FLOAT", "", 1, ["float"]])
def test_any_other_encoding_format_is_refused(encoding: Any) -> None:
    assert refusal(encoding_format=encoding).param == "encoding_format"


@pytest.mark.parametrize(
    ("value", "inputs"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [(1, 2)]), ([[1], [2]], [(1,), (2,)])],
)
def test_input_is_accepted_in_all_forms(value: Any, inputs: list[Any]) -> None:
    assert read(input=value).input == inputs


def test_input_is_required() -> None:
    error = refusal(input=None)

    assert type(error) is MissingParameterError
    assert error.param == "input"


@pytest.mark.parametrize("value", ["", [], ["a", ""], [[]], 1])
def test_empty_input_is_refused(value: Any) -> None:
    assert refusal(input=value).param == "input"


def test_extensions_are_accepted() -> None:
    request = read(dimensions=2, input_type="query", truncate=True, truncate_prompt_tokens=-1)

    assert (request.dimensions, request.input_type) == (2, "query")
    assert (request.truncate, request.truncate_prompt_tokens) == (True, -1)


def test_unknown_parameter_is_refused_with_its_name() -> None:
    error = refusal(n=1)

    assert type(error) is UnknownParameterError
    assert error.param == "n"
