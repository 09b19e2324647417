import json
from typing import Any, ClassVar

import pytest
from pydantic import Field

from api.errors import (
    ApiError,
    InvalidRequestError,
    MalformedBodyError,
    MissingParameterError,
    UnknownParameterError,
    UnsupportedParameterError,
)
from api.http.parsing import ParsedRequest, read_json_object, read_request
from api.schema.common import Request
from api.settings import Parameters


class Inner(Request):
    role: str


class Sample(Request):
    refused: ClassVar = frozenset({"echo"})
    reported: ClassVar = frozenset({"label"})

    text: str
    count: int = Field(1, ge=1)
    is_on: bool = False
    ratio: float = 0.5
    items: list[Inner] = Field(default_factory=list)


def read(body: bytes, parameters: Parameters = "strict") -> Sample:
    return read_request(body, Sample, parameters).request


def refusal(body: bytes, parameters: Parameters = "strict") -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(body, parameters)
    return caught.value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"text",
        b"{'text': 'a'}",
        b'{"text": "a"} {}',
        b'{"text": "a",}',
        b'{"text": "\xff"}',
        b'{"text": "a"}'.decode().encode("utf-16"),
        b'\xef\xbb\xbf{"text": "a"}',
        b'{"text": "a\nb"}',
        b'{"text": "\\ud800"}',
        b'{"text": "\\udc00\\ud800"}',
        b'{"text": "a", "ratio": NaN}',
        b'{"text": "a", "ratio": Infinity}',
        b'{"text": "a", "ratio": -Infinity}',
        b'{"text": "a", "count": 0x10}',
        b'{"text": "a", "count": ' + b"9" * 5000 + b"}",
        b'{"text": ' + b"[" * 40_000 + b"]" * 40_000 + b"}",
        b'{"a":' * 40_000 + b"1" + b"}" * 40_000,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_body_that_is_not_json_in_utf8_is_malformed(body: bytes) -> None:
    error = refusal(body)

    assert type(error) is MalformedBodyError
    assert error.message == "The request body is not valid JSON in UTF-8."


@pytest.mark.parametrize("body", [b"[]", b'"text"', b"1", b"null", b"true", b"[{}]"])
def test_json_that_is_not_an_object_is_malformed(body: bytes) -> None:
    error = refusal(body)

    assert type(error) is MalformedBodyError
    assert error.message == "The request body must be a JSON object."


@pytest.mark.parametrize("bracket", ["[", "{"])
def test_body_of_brackets_is_refused_before_it_is_parsed(bracket: str) -> None:
    error = refusal(bracket.encode() * 50_001)

    assert error.message == (
        "The request body cannot be read: it has more than 50000 arrays and objects."
    )


@pytest.mark.parametrize("text", ["[{", '"[{', "\\[{", '\\"[{'])
def test_brackets_in_strings_are_not_counted(text: str) -> None:
    many = text * 300_000

    assert read(json.dumps({"text": many}).encode()).text == many


def test_error_of_a_malformed_body_hides_the_parsers_error() -> None:
    assert refusal(b"{").__suppress_context__


def test_json_object_is_decoded() -> None:
    assert read_json_object('{"text": "é\\u0000😀"}'.encode()) == {"text": "é\0😀"}


def test_required_parameter_that_is_absent_is_missing() -> None:
    error = refusal(b"{}")

    assert type(error) is MissingParameterError
    assert (error.param, error.message) == ("text", "Missing required parameter: 'text'.")


def test_required_parameter_that_is_null_is_missing() -> None:
    assert type(refusal(b'{"text": null}')) is MissingParameterError


def test_null_equals_absent() -> None:
    body = b'{"text": "a", "count": null, "is_on": null, "ratio": null, "items": null}'

    assert read(body) == Sample(text="a")


def test_null_equals_absent_for_an_unknown_parameter() -> None:
    assert read(b'{"text": "a", "colour": null}') == Sample(text="a")


def test_null_equals_absent_for_an_unsupported_parameter() -> None:
    body = b'{"text": "a", "echo": null}'

    assert read(body) == Sample(text="a")


def test_unknown_parameter_is_named() -> None:
    error = refusal(b'{"text": "a", "colour": 1}')

    assert type(error) is UnknownParameterError
    assert (error.param, error.message) == ("colour", "Unknown parameter: 'colour'.")


def test_unknown_parameter_inside_an_array_is_named_by_its_path() -> None:
    error = refusal(b'{"text": "a", "items": [{"role": "x"}, {"role": "x", "colour": 1}]}')

    assert type(error) is UnknownParameterError
    assert error.param == "items[1].colour"


def test_long_parameter_name_is_shortened_in_the_error() -> None:
    error = refusal(b'{"text": "a", "%b": 1}' % (b"x" * 100_000))

    assert error.param == "x" * 64
    assert len(error.message) < 128


def test_unsupported_parameter_is_named() -> None:
    error = refusal(b'{"text": "a", "echo": true}')

    assert type(error) is UnsupportedParameterError
    assert error.param == "echo"
    assert error.message == "The parameter 'echo' is not supported by this service."


@pytest.mark.parametrize(
    ("member", "param"),
    [
        (b'"count": true', "count"),
        (b'"count": "3"', "count"),
        (b'"count": 3.0', "count"),
        (b'"count": 0', "count"),
        (b'"count": [1]', "count"),
        (b'"is_on": 1', "is_on"),
        (b'"is_on": "true"', "is_on"),
        (b'"ratio": "0.5"', "ratio"),
        (b'"ratio": true', "ratio"),
        (b'"ratio": 1e999', "ratio"),
        (b'"items": {}', "items"),
        (b'"items": "a"', "items"),
        (b'"items": [{"role": 1}]', "items[0].role"),
        (b'"items": [[]]', "items[0]"),
    ],
)
def test_value_of_another_type_is_refused_with_its_name(member: bytes, param: str) -> None:
    error = refusal(b'{"text": "a", ' + member + b"}")

    assert type(error) is InvalidRequestError
    assert error.param == param
    assert error.message.startswith(f"Invalid value for '{param}': ")


def test_integer_is_accepted_as_float() -> None:
    assert read(b'{"text": "a", "ratio": 1}').ratio == 1.0


@pytest.mark.parametrize(
    "body",
    [b'{"text": "a", "text": "b"}', b'{"text": "a", "items": [{"role": "a", "role": "a"}]}'],
)
def test_repeated_member_is_malformed(body: bytes) -> None:
    assert type(refusal(body)) is MalformedBodyError


def test_lenient_policy_leaves_out_unsupported_parameters_and_lists_them() -> None:
    body = b'{"text": "a", "echo": 1, "colour": 2, "items": [{"role": "x", "hue": 3}], "label": 4}'

    result = read_request(body, Sample, "lenient")

    assert result.request == Sample(text="a", items=[Inner(role="x")])
    assert result.headers() == {"x-ignored-parameters": "label, echo, items[0].hue, colour"}


def test_lenient_policy_refuses_invalid_values() -> None:
    assert refusal(b'{"text": "a", "colour": 2, "count": 0}', "lenient").param == "count"


def test_strict_policy_reports_parameters_without_effect() -> None:
    result = read_request(b'{"text": "a", "label": "x"}', Sample)

    assert result.headers() == {"x-ignored-parameters": "label"}


def test_without_anything_to_report_there_is_no_header() -> None:
    assert read_request(b'{"text": "a"}', Sample).headers() == {}


@pytest.mark.parametrize("name", ["a\\r\\nset-cookie: b", "é", "\\u0000"])
def test_name_that_a_header_cannot_contain_is_left_out(name: str) -> None:
    body = f'{{"text": "a", "{name}": 1}}'

    assert read_request(body.encode(), Sample, "lenient").headers() == {}


@pytest.mark.parametrize(
    "member",
    [b'"items": [1]', b'"items": [{}]', b'"count": -1', b'"is_on": "maybe"', b'"colour": "secret"'],
)
def test_message_shows_neither_class_names_nor_the_value(member: bytes) -> None:
    message: Any = refusal(b'{"text": "a", ' + member + b"}").message

    assert "Inner" not in message
    assert "Sample" not in message
    assert "pydantic" not in message
    assert "secret" not in message
    assert "maybe" not in message
    assert message.endswith(".")
    assert not message.endswith("..")


def test_header_lists_at_most_64_names() -> None:
    read = ParsedRequest(Sample(text="a"), tuple(f"name{number}" for number in range(1000)))

    names = read.headers()["x-ignored-parameters"].split(", ")

    assert names == [*(f"name{number}" for number in range(64)), "and 936 more"]
