import json
from typing import Any

import pytest

from api.errors import ApiError, MissingParameter, UnknownParameter, UnsupportedParameter
from api.parsing import read_request
from api.schema.chat import UNSUPPORTED, ChatMessage, ChatRequest

USER = {"role": "user", "content": "Hi"}


def read(**members: Any) -> ChatRequest:
    body = {"model": "m", "messages": [USER], **members}
    return read_request(json.dumps(body).encode(), ChatRequest, UNSUPPORTED)


def read_message(**members: Any) -> ChatMessage:
    return read(messages=[USER, {**USER, **members}]).messages[1]


def refusal(**members: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(**members)
    return caught.value


def message_refusal(**members: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read_message(**members)
    return caught.value


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_roles(role: str) -> None:
    assert read_message(role=role).role == role


@pytest.mark.parametrize("role", ["tool", "function", "User", "", 1, None])
def test_any_other_role_is_refused(role: Any) -> None:
    assert message_refusal(role=role).param == "messages[1].role"


def test_role_is_required() -> None:
    error = refusal(messages=[{"content": "Hi"}])

    assert type(error) is MissingParameter
    assert error.param == "messages[0].role"


@pytest.mark.parametrize("content", ["", "Hi", "é\n\0😀"])
def test_content_may_be_a_string(content: str) -> None:
    assert read_message(content=content).content == content


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([], ""),
        ([{"type": "text", "text": "Hi"}], "Hi"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
    ],
)
def test_content_may_be_text_parts(parts: list[Any], text: str) -> None:
    assert read_message(content=parts).content == text


@pytest.mark.parametrize(
    "content",
    [
        1,
        {},
        ["Hi"],
        [{"type": "image_url", "image_url": {"url": "http://a/b.png"}}],
        [{"type": "text", "text": "a"}, {"type": "input_audio"}],
        [{"type": "text"}],
        [{"type": "text", "text": 1}],
        [{"type": "text", "text": None}],
        [{"text": "a"}],
    ],
    ids=repr,
)
def test_any_other_content_is_refused(content: Any) -> None:
    assert message_refusal(content=content).param == "messages[1].content"


@pytest.mark.parametrize("name", ["a", "x" * 256, None])
def test_name_is_optional(name: str | None) -> None:
    assert read_message(name=name).name == name


@pytest.mark.parametrize("name", ["", "x" * 257, 1])
def test_bad_name_is_refused(name: Any) -> None:
    assert message_refusal(name=name).param == "messages[1].name"


def test_message_of_an_answer_can_be_sent_back() -> None:
    """Clients append it to the conversation as it came, its nulls included."""
    answer = {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": None}

    assert read(messages=[answer]).messages == [ChatMessage(role="assistant", content="Hi")]


def test_content_is_required() -> None:
    error = message_refusal(content=None)

    assert type(error) is MissingParameter
    assert error.param == "messages[1].content"


def test_unknown_member_of_a_message_is_named() -> None:
    error = message_refusal(colour="red")

    assert type(error) is UnknownParameter
    assert error.param == "messages[1].colour"


@pytest.mark.parametrize("messages", [[], "Hi", {}, 1])
def test_bad_messages_are_refused(messages: Any) -> None:
    assert refusal(messages=messages).param == "messages"


def test_more_messages_than_the_limit_are_refused() -> None:
    assert refusal(messages=[USER] * 2049).param == "messages"


def test_messages_are_required() -> None:
    error = refusal(messages=None)

    assert type(error) is MissingParameter
    assert error.param == "messages"


def test_model_is_required() -> None:
    error = refusal(model=None)

    assert type(error) is MissingParameter
    assert error.param == "model"


@pytest.mark.parametrize("value", [0, True, "1", 2**31])
def test_bad_max_completion_tokens_is_refused(value: Any) -> None:
    assert refusal(max_completion_tokens=value).param == "max_completion_tokens"


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_unsupported_parameter_is_refused_by_name(name: str) -> None:
    error = refusal(**{name: 1})

    assert type(error) is UnsupportedParameter
    assert error.param == name


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_unsupported_parameter_may_be_null(name: str) -> None:
    assert read(**{name: None}) == read()


def test_nothing_is_both_supported_and_not() -> None:
    assert not UNSUPPORTED & set(ChatRequest.model_fields)


def test_unknown_parameter_is_refused_by_name() -> None:
    error = refusal(max_token=10)

    assert type(error) is UnknownParameter
    assert error.param == "max_token"
