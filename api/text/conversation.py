"""Translates a chat request's messages and tools into a `Conversation` for a model."""

from api.ports.text import Choice, Conversation, ImageInput, Message, Tool, ToolCall, Tools
from api.schema.chat import ChatRequest
from api.schema.chat_messages import ChatMessage, Content
from api.schema.tools import ToolChoice
from api.settings import Limits
from api.text.image_parts import check_image_count, is_remote, read_image


def to_conversation(
    request: ChatRequest, limits: Limits, *, may_fetch: bool = False
) -> Conversation:
    """Translate the messages and tools.

    Args:
        request: the chat request.
        limits: bound the number and size of images.
        may_fetch: images that must be fetched become empty `ImageInput`s instead of errors.

    Raises:
        InvalidRequestError: an image cannot be used, or there are too many.
    """
    check_image_count(request, limits)
    messages = tuple(
        _to_message(message, _to_content(message.content, index, limits, may_fetch))
        for index, message in enumerate(request.messages)
    )
    return Conversation(
        messages,
        tools=to_tools(request),
        reasoning_effort=request.reasoning_effort,
        template_options=request.chat_template_kwargs,
    )


def _to_message(
    message: ChatMessage, content: str | tuple[str | ImageInput, ...] | None
) -> Message:
    calls = tuple(
        ToolCall(call.id, call.function.name, call.function.arguments)
        for call in message.tool_calls
    )
    return Message(
        role="system" if message.role == "developer" else message.role,
        content=message.refusal if content is None else content,
        name=message.name,
        tool_calls=calls,
        tool_call_id=message.tool_call_id,
        reasoning=message.reasoning,
    )


def _to_content(
    content: Content | None, index: int, limits: Limits, may_fetch: bool
) -> str | tuple[str | ImageInput, ...] | None:
    if not isinstance(content, tuple):
        return content
    return tuple(
        part
        if isinstance(part, str)
        else ImageInput(b"")
        if may_fetch and is_remote(part)
        else ImageInput(read_image(part.url, f"messages[{index}].content", limits))
        for part in content
    )


def to_tools(request: ChatRequest) -> Tools | None:
    """Translate the tools; those that `tool_choice` does not allow are left out."""
    if request.tools is None:
        return None
    tools = [tool.function for tool in request.tools]
    choice = request.tool_choice or ToolChoice(type="auto")
    if choice.allowed_tools is not None:
        names = {tool.function.name for tool in choice.allowed_tools.tools}
        tools = [tool for tool in tools if tool.name in names]
        choice = ToolChoice(type=choice.allowed_tools.mode)
    return Tools(
        tuple(Tool(tool.name, tool.description, tool.parameters, tool.strict) for tool in tools),
        choice=_CHOICES[choice.type],
        name=choice.function.name if choice.function else None,
        is_parallel=request.parallel_tool_calls,
    )


_CHOICES: dict[str, Choice] = {
    "none": "none",
    "auto": "auto",
    "required": "required",
    "function": "named",
}
