"""Limits of validation errors: each costs microseconds, and a body may have millions."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from api.errors import InvalidRequestError, UnknownParameterError
from api.http.parsing import read_members
from api.schema.chat import ChatRequest
from api.schema.common import Request
from api.schema.completions import CompletionRequest
from api.schema.embeddings import EmbeddingsRequest
from api.schema.images import ImagesRequest
from api.schema.reranking import RerankRequest, ScoringRequest

SCHEMAS = [
    ChatRequest,
    CompletionRequest,
    EmbeddingsRequest,
    ImagesRequest,
    RerankRequest,
    ScoringRequest,
]
FIELDS = [(schema, name) for schema in SCHEMAS for name in schema.model_fields]
MANY = 20_000
MOST = 20
"""Most errors of a body with one invalid field, including those of the missing fields."""
USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f"}}


def count_errors(schema: type[Request], members: dict[str, Any]) -> int:
    try:
        schema.model_validate(members, strict=True)
    except ValidationError as error:
        return error.error_count()
    return 0


@pytest.mark.parametrize(("schema", "name"), FIELDS)
@pytest.mark.parametrize("item", [1, "", {}, []], ids=repr)
def test_array_of_invalid_items_has_few_errors(schema: type[Request], name: str, item: Any) -> None:
    assert count_errors(schema, {name: [item] * MANY}) < MOST


@pytest.mark.parametrize(("schema", "name"), FIELDS)
def test_object_of_invalid_members_has_few_errors(schema: type[Request], name: str) -> None:
    assert count_errors(schema, {name: {f"k{number}": [] for number in range(MANY)}}) < MOST


@pytest.mark.parametrize("name", ["tool_calls", "annotations", "content"])
@pytest.mark.parametrize("item", [1, "", {}, []], ids=repr)
def test_invalid_array_in_a_message_has_few_errors(name: str, item: Any) -> None:
    message = {"role": "assistant", name: [item] * MANY}

    assert count_errors(ChatRequest, {"model": "m", "messages": [message]}) < MOST


@pytest.mark.parametrize("item", [1, "", {}, []], ids=repr)
def test_invalid_array_of_allowed_tools_has_few_errors(item: Any) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [item] * MANY}}
    members = {"model": "m", "messages": [USER], "tools": [TOOL], "tool_choice": choice}

    assert count_errors(ChatRequest, members) < MOST


def test_unknown_members_of_one_object_have_few_errors() -> None:
    message = {**USER, **{f"k{number}": 1 for number in range(MANY)}}

    assert count_errors(ChatRequest, {"model": "m", "messages": [message]}) < MOST


def test_body_of_unknown_members_is_refused_before_validation() -> None:
    members = {"model": "m", "messages": [USER], **{f"k{number}": 1 for number in range(MANY)}}

    with pytest.raises(InvalidRequestError, match=r"more than [0-9]+ parameters") as caught:
        read_members(members, ChatRequest, "lenient")

    assert caught.value.code == "invalid_value"


def test_few_unknown_members_are_all_listed() -> None:
    members = {"model": "m", "messages": [USER], **{f"k{number}": 1 for number in range(16)}}

    read = read_members(members, ChatRequest, "lenient")

    assert read.without_effect == tuple(f"k{number}" for number in range(16))


def test_too_many_errors_are_counted_and_not_listed() -> None:
    message = {"role": "assistant", "content": "Hi", "tool_calls": [{}] * 2}
    members = {"model": "m", "messages": [{**message, "a": 1, "b": 2}] * 2000}

    with pytest.raises(InvalidRequestError, match=r"has [0-9]{5} errors") as caught:
        read_members(members, ChatRequest)

    assert caught.value.param is None


def test_more_tool_calls_than_the_limit_are_refused_before_validation() -> None:
    message = {"role": "assistant", "tool_calls": [{}] * 128}

    with pytest.raises(InvalidRequestError, match="at most 4096 tool calls, not 4224"):
        read_members({"model": "m", "messages": [message] * 33}, ChatRequest)


def test_unknown_member_of_messages_in_a_string_cannot_be_left_out() -> None:
    text = '[{"role": "user", "content": "Hi", "mood": 1}]'

    with pytest.raises(UnknownParameterError, match="mood"):
        read_members({"model": "m", "messages": text, "colour": 1}, ChatRequest, "lenient")


@pytest.mark.parametrize("index", [0, 1])
def test_nested_unknown_member_of_messages_in_a_string_cannot_be_left_out(index: int) -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}", "mood": 1}}
    answer = {"role": "assistant", "content": "Hi", "tool_calls": [call]}
    messages = [*[USER] * index, answer]

    with pytest.raises(UnknownParameterError) as caught:
        read_members({"model": "m", "messages": json.dumps(messages)}, ChatRequest, "lenient")

    assert caught.value.param == f"messages[{index}].tool_calls[0].function.mood"


def test_messages_in_a_string_with_a_repeated_member_are_refused() -> None:
    text = '[{"role": "user", "content": "a", "content": "b"}]'

    with pytest.raises(InvalidRequestError, match="a repeated member"):
        read_members({"model": "m", "messages": text}, ChatRequest)


def test_object_with_a_repeated_member_as_the_user_message_is_accepted() -> None:
    text = '{"a": 1, "a": 2}'

    read = read_members({"model": "m", "messages": text}, ChatRequest)

    assert read.request.messages[0].content == text
