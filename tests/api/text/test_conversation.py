from typing import Any

import pytest

from api.ports.text import Conversation, Message, Tool, Tools
from api.schema.chat import ChatRequest
from api.settings import Limits
from api.text.conversation import to_conversation
from tests.helpers.fakes import LLM

BODY = {"model": LLM, "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "does", "parameters": {"type": "object"}},
}


def conversation_of(**members: Any) -> Any:
    return to_conversation(ChatRequest.model_validate({**BODY, **members}), Limits())


def test_role_developer_becomes_system() -> None:
    conversation = conversation_of(messages=[{"role": "developer", "content": "Be brief."}])

    assert conversation == Conversation((Message("system", "Be brief."),))


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ("auto", None)),
        ("none", ("none", None)),
        ("required", ("required", None)),
        ({"type": "function", "function": {"name": "f"}}, ("named", "f")),
    ],
)
def test_tools_reach_the_model(choice: Any, expected: Any) -> None:
    tools = conversation_of(tools=[TOOL], tool_choice=choice).tools

    assert tools.tools == (Tool("f", "does", {"type": "object"}),)
    assert (tools.choice, tools.name) == expected


def test_tools_that_are_not_allowed_are_left_out() -> None:
    other = {"type": "function", "function": {"name": "g"}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [other]}}

    tools = conversation_of(tools=[TOOL, other], tool_choice=allowed).tools

    assert tools == Tools((Tool("g"),), "required")


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"role": "user", "content": ""}, ""),
        ({"role": "assistant", "refusal": "No."}, "No."),
        ({"role": "assistant", "content": "", "refusal": "No."}, ""),
    ],
)
def test_empty_content_reaches_the_model(message: Any, content: str) -> None:
    conversation = conversation_of(messages=[message])

    assert conversation.messages[0].content == content
