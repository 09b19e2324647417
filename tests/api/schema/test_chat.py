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
from api.schema.chat import ChatRequest
from api.schema.chat_messages import ChatMessage, ImageUrl

USER = {"role": "user", "content": "Hi"}


def read(**members: Any) -> ChatRequest:
    body = {"model": "m", "messages": [USER], **members}
    return read_request(json.dumps(body).encode(), ChatRequest).request


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
def test_every_role_is_accepted(role: str) -> None:
    assert read_message(role=role).role == role


@pytest.mark.parametrize("role", ["function", "User", "", 1, None])
def test_any_other_role_is_refused(role: Any) -> None:
    assert message_refusal(role=role).param == "messages[1].role"


def test_role_is_required() -> None:
    error = refusal(messages=[{"content": "Hi"}])

    assert type(error) is MissingParameterError
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
        [{"type": "image_url", "image_url": "http://a/b.png"}],
        [{"type": "image_url", "image_url": {"url": 1}}],
        [{"type": "image_url", "image_url": {"url": "data:", "colour": "red"}}],
        [{"type": "image_url", "image_url": {"url": "data:", "detail": "huge"}}],
        [{"type": "text", "text": "a", "colour": "red"}],
        [{"type": "text", "text": "a"}] * 2049,
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
def test_invalid_name_is_refused(name: Any) -> None:
    assert message_refusal(name=name).param == "messages[1].name"


def test_message_of_an_answer_can_be_sent_back() -> None:
    """Clients append the message to the conversation unchanged, with its nulls."""
    answer = {"role": "assistant", "content": "Hi", "refusal": None, "tool_calls": None}

    assert read(messages=[answer]).messages == [ChatMessage(role="assistant", content="Hi")]


def test_tool_call_and_its_result_can_be_sent_back() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    answer = {"role": "assistant", "content": None, "tool_calls": [call], "annotations": []}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "7"}

    first, second = read(messages=[answer, result]).messages

    assert first.content is None
    assert first.tool_calls[0].function.name == "f"
    assert (second.tool_call_id, second.content) == ("call_1", "7")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([USER, {"role": "tool", "content": "7"}], "messages[1]"),
        ([{**USER, "tool_call_id": "call_1"}], "messages[0]"),
        ([{**USER, "refusal": "no"}], "messages[0]"),
        ([{"role": "tool", "content": "7", "tool_call_id": "call_1"}], "messages"),
        (
            [{"role": "assistant", "tool_calls": [{"id": "1"}]}],
            "messages[0].tool_calls[0].function",
        ),
    ],
    ids=repr,
)
def test_messages_that_do_not_fit_together_are_refused(messages: Any, param: str) -> None:
    assert refusal(messages=messages).param == param


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_can_be_sent_back(name: str) -> None:
    assert read_message(role="assistant", **{name: "hm"}).reasoning == "hm"


def test_images_and_texts_stay_separate_and_in_order() -> None:
    parts = [
        {"type": "text", "text": "What is"},
        {"type": "image_url", "image_url": {"url": "data:x", "detail": "low"}},
        {"type": "text", "text": "?"},
    ]

    assert read_message(content=parts).content == ("What is", ImageUrl("data:x"), "?")


def test_images_outside_user_messages_are_refused() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:x"}}]

    assert message_refusal(role="system", content=parts).param == "messages[1].content"


@pytest.mark.parametrize(
    ("messages", "roles"),
    [
        (json.dumps([{"role": "system", "content": "a"}, USER]), ["system", "user"]),
        ("Hi", ["user"]),
        ("[1, 2]", ["user"]),
        ("[]", ["user"]),
        ('{"role": "user"}', ["user"]),
    ],
)
def test_messages_may_be_a_string_of_json_or_of_text(messages: str, roles: list[str]) -> None:
    assert [message.role for message in read(messages=messages).messages] == roles


def test_content_is_required() -> None:
    error = message_refusal(content=None)

    assert type(error) is MissingParameterError
    assert error.param == "messages[1].content"


def test_unknown_member_of_a_message_is_named() -> None:
    error = message_refusal(colour="red")

    assert type(error) is UnknownParameterError
    assert error.param == "messages[1].colour"


@pytest.mark.parametrize("messages", [[], {}, 1])
def test_invalid_messages_are_refused(messages: Any) -> None:
    assert refusal(messages=messages).param == "messages"


def test_more_messages_than_the_limit_are_refused() -> None:
    assert refusal(messages=[USER] * 2049).param == "messages"


def test_messages_are_required() -> None:
    error = refusal(messages=None)

    assert type(error) is MissingParameterError
    assert error.param == "messages"


def test_model_is_required() -> None:
    error = refusal(model=None)

    assert type(error) is MissingParameterError
    assert error.param == "model"


@pytest.mark.parametrize("value", [0, True, "1", 2**31])
def test_invalid_max_completion_tokens_is_refused(value: Any) -> None:
    assert refusal(max_completion_tokens=value).param == "max_completion_tokens"


@pytest.mark.parametrize("name", sorted(ChatRequest.refused))
def test_unsupported_parameter_is_refused_with_its_name(name: str) -> None:
    error = refusal(**{name: 1})

    assert type(error) is UnsupportedParameterError
    assert error.param == name


@pytest.mark.parametrize("name", sorted(ChatRequest.refused))
def test_unsupported_parameter_may_be_null(name: str) -> None:
    assert read(**{name: None}) == read()


def test_no_parameter_is_both_supported_and_unsupported() -> None:
    assert not ChatRequest.refused & set(ChatRequest.model_fields)


def test_unknown_parameter_is_refused_with_its_name() -> None:
    error = refusal(max_token=10)

    assert type(error) is UnknownParameterError
    assert error.param == "max_token"


FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize("choice", ["none", "auto", "required", NAMED])
def test_every_form_of_tool_choice_is_accepted(choice: Any) -> None:
    assert read(tools=[FUNCTION], tool_choice=choice).tool_choice is not None


def test_some_of_the_tools_may_be_allowed() -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}

    choice = read(tools=[FUNCTION], tool_choice=allowed).tool_choice

    assert choice is not None
    assert choice.allowed_tools is not None


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tools": [FUNCTION], "tool_choice": "f"}, "tool_choice"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "required"}}, "tool_choice"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function"}}, "tool_choice"),
        (
            {
                "tools": [FUNCTION],
                "tool_choice": {"type": "function", "function": {"name": "g"}},
            },
            "tool_choice",
        ),
        ({"tools": []}, "tools"),
        ({"tools": [FUNCTION] * 2}, "tools"),
        ({"tools": [FUNCTION] * 129}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        (
            {
                "tools": [
                    {"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}
                ]
            },
            "tools[0].function.parameters",
        ),
        ({"response_format": {"type": "grammar"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "text", "schema": {}}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
        ),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a" * 65: "b"}}, "metadata"),
        (
            {"chat_template_kwargs": {"enable_thinking": "yes"}},
            "chat_template_kwargs.enable_thinking",
        ),
        ({"reasoning_effort": "great"}, "reasoning_effort"),
        ({"modalities": ["audio"]}, "modalities[0]"),
        ({"service_tier": "gold"}, "service_tier"),
    ],
    ids=repr,
)
def test_invalid_value_is_refused_with_its_name(members: Any, param: str) -> None:
    assert refusal(**members).param == param


def test_store_is_refused_if_true() -> None:
    assert read(store=False) == read()
    assert type(refusal(store=True)) is UnsupportedParameterError


@pytest.mark.parametrize(
    ("response_format", "wanted"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_object", "schema": {"type": "array"}}, {"type": "array"}),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "null"}}},
            {"type": "null"},
        ),
        ({"type": "json_schema", "json_schema": {"name": "n", "strict": True}}, {"type": "object"}),
    ],
    ids=repr,
)
def test_response_format_has_the_schema_of_the_answer(response_format: Any, wanted: Any) -> None:
    read_format = read(response_format=response_format).response_format

    assert read_format is not None
    assert read_format.answer_schema == wanted


def tool_of_length(number: int, *, strict: bool) -> dict[str, Any]:
    parameters = {"type": "string", "maxLength": 900 + number}
    function = {"name": f"f{number}", "parameters": parameters, "strict": strict}
    return {"type": "function", "function": function}


def five_tools(choice: str, *, strict: bool) -> dict[str, Any]:
    tools = [tool_of_length(number, strict=strict) for number in range(5)]
    return {"tools": tools, "tool_choice": choice}


@pytest.mark.parametrize(
    ("choice", "strict", "param"), [("required", False, "tool_choice"), ("auto", True, "tools")]
)
def test_schemas_compiled_together_have_a_common_limit(
    choice: str, strict: bool, param: str
) -> None:
    assert refusal(**five_tools(choice, strict=strict)).param == param


def test_schemas_that_are_not_compiled_have_no_common_limit() -> None:
    assert read(**five_tools("auto", strict=False))


def test_messages_as_a_string_have_no_more_parts_than_a_body() -> None:
    text = "[" + "[]," * 50_000 + "[]]"

    with pytest.raises(ApiError, match="more than 50000 arrays and objects") as caught:
        read_request(json.dumps({"model": "m", "messages": text}).encode(), ChatRequest)

    assert caught.value.param == "messages"


def test_text_full_of_brackets_is_a_message() -> None:
    text = "a" + "[]," * 60_000
    body = json.dumps({"model": "m", "messages": text}).encode()

    assert read_request(body, ChatRequest).request.messages[0].content == text


@pytest.mark.parametrize(
    ("choice", "lengths"),
    [
        ("none", []),
        ("auto", []),
        ("required", [900, 901]),
        ({"type": "function", "function": {"name": "f1"}}, [901]),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "f1"}}],
                },
            },
            [900, 901],
        ),
    ],
    ids=["none", "auto", "required", "named", "allowed"],
)
def test_schemas_of_forced_calls_are_compiled(choice: Any, lengths: list[int]) -> None:
    request = read(tools=[tool_of_length(n, strict=False) for n in (0, 1)], tool_choice=choice)

    assert [each["maxLength"] for each in request.compiled_schemas] == lengths


def test_schemas_of_the_answer_and_of_strict_calls_are_compiled() -> None:
    request = read(
        tools=[tool_of_length(0, strict=True), tool_of_length(1, strict=False)],
        response_format={"type": "json_object", "schema": {"enum": [1]}},
    )

    assert request.compiled_schemas == [{"enum": [1]}, {"type": "string", "maxLength": 900}]
    assert read().compiled_schemas == []
