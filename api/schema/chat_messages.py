"""The messages of a chat. Source: OpenAI openapi.yaml, `ChatCompletionRequestMessage`."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from api.schema.common import Request, at_most
from api.schema.strict_json import DuplicateKeyError, TooManyPartsError, read_json
from api.schema.tools import FunctionName

_MAX_PARTS = 2048
_MAX_MESSAGES = 2048
_MAX_TOOL_CALLS = 128
_MAX_TOOL_CALLS_TOGETHER = 4096


@dataclass(frozen=True, slots=True)
class ImageUrl:
    """An image by its URL, usually a `data:` URL that contains it."""

    url: str


Content = str | tuple[str | ImageUrl, ...]


def _to_content(value: Any, info: ValidationInfo) -> Content | None:
    """Join text parts into one text, unless there are images among them."""
    if value is None:
        if info.data.get("tool_calls") or info.data.get("refusal"):
            return None
        raise PydanticCustomError("missing", "it is required")
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or len(value) > _MAX_PARTS:
        raise ValueError(f"must be a string or an array of at most {_MAX_PARTS} parts")
    parts = [_to_part(part) for part in value]
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) == len(parts):
        return "".join(texts)
    if info.data.get("role", "user") != "user":
        raise ValueError("only a user message may contain images")
    return tuple(parts)


def _to_part(part: Any) -> str | ImageUrl:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal"):
        return str(_to_member(part, kind, str))
    if kind == "image_url":
        image = _to_member(part, "image_url", dict)
        if image.get("detail") not in (None, "auto", "low", "high") or image.keys() - _IMAGE_KEYS:
            raise ValueError("an 'image_url' has only a 'url' and optionally a 'detail'")
        if not isinstance(image.get("url"), str):
            raise ValueError("an 'image_url' needs a 'url' that is a string")
        return ImageUrl(image["url"])
    raise ValueError("only content parts of the types 'text' and 'image_url' are supported")


_IMAGE_KEYS = {"url", "detail"}


def _to_member(part: dict[str, Any], key: str, expected: type) -> Any:
    if part.keys() - {"type", key} or not isinstance(part.get(key), expected):
        name = "a string" if expected is str else "an object"
        raise ValueError(f"a content part of type '{key}' needs '{key}', {name}, and nothing else")
    return part[key]


class FunctionCall(Request):
    """A function and its arguments, as the model called it."""

    name: FunctionName
    arguments: str


class AssistantToolCall(Request):
    """A tool call of the model."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"] = "function"
    function: FunctionCall


def _read_reasoning(value: Any) -> Any:
    """Accept `reasoning_content`, the older name of `reasoning`, which many clients send."""
    if isinstance(value, dict) and "reasoning_content" in value:
        value = dict(value)
        older = value.pop("reasoning_content")
        value["reasoning"] = value.get("reasoning") or older
    return value


class ChatMessage(Request):
    """One message; `developer` is OpenAI's newer name of `system`.

    Clients may send the message of an answer back as it is, so `refusal` and `annotations` are
    accepted.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    tool_calls: Annotated[list[AssistantToolCall], at_most(_MAX_TOOL_CALLS)] = Field(
        default_factory=list
    )
    tool_call_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    reasoning: str | None = None
    refusal: str | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] = Field(default_factory=list)
    content: Annotated[Content | None, PlainValidator(_to_content)] = Field(
        None, validate_default=True
    )
    """The last field, because its validation needs the others."""

    _rename = model_validator(mode="before")(_read_reasoning)

    @model_validator(mode="after")
    def _suits_its_role(self) -> "ChatMessage":
        is_answer = self.role == "assistant"
        if (self.tool_calls or self.reasoning or self.refusal) and not is_answer:
            raise ValueError("only an assistant message has 'tool_calls', 'reasoning' or 'refusal'")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("a tool message has a 'tool_call_id', and no other has")
        return self


def _to_messages(value: Any) -> Any:
    """Convert a string to messages; some services accept JSON in it, or a user message."""
    messages = _read_messages(value) if isinstance(value, str) else value
    if isinstance(messages, list):
        calls = (message.get("tool_calls") for message in messages if isinstance(message, dict))
        count = sum(len(each) for each in calls if isinstance(each, list))
        if count > _MAX_TOOL_CALLS_TOGETHER:
            raise ValueError(
                f"must have at most {_MAX_TOOL_CALLS_TOGETHER} tool calls, not {count}"
            )
    return messages


def _read_messages(text: str) -> Any:
    try:
        messages = read_json(text)
    except TooManyPartsError as error:
        if text.lstrip().startswith("["):
            raise ValueError(str(error)) from None
        messages = None
    except DuplicateKeyError:
        if text.lstrip().startswith("["):
            raise ValueError("has an object with a repeated member") from None
        messages = None
    except ValueError:
        messages = None
    is_conversation = isinstance(messages, list) and all(
        isinstance(message, dict) for message in messages
    )
    return messages if is_conversation and messages else [{"role": "user", "content": text}]


Messages = Annotated[
    list[ChatMessage], Field(min_length=1), at_most(_MAX_MESSAGES), BeforeValidator(_to_messages)
]


def check_tool_messages(messages: list[ChatMessage]) -> None:
    """Check that every tool message follows the message with its tool call.

    Raises:
        ValueError: a tool message does not.
    """
    called: set[str] = set()
    for message in messages:
        called.update(call.id for call in message.tool_calls)
        if message.tool_call_id is not None and message.tool_call_id not in called:
            raise ValueError("a tool message must follow the message with its tool call")
