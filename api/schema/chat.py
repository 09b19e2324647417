"""The body of `POST /v1/chat/completions`. Source: OpenAI openapi.yaml."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from api.schema.common import Request, TextRequest, TokenCount

UNSUPPORTED = frozenset(
    [
        "audio",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "metadata",
        "modalities",
        "moderation",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "service_tier",
        "store",
        "tool_choice",
        "tools",
        "top_logprobs",
        "verbosity",
        "web_search_options",
    ]
)
"""OpenAI's parameters that cannot be honoured yet: refused by name, never dropped."""


def _join_text_parts(value: Any) -> Any:
    """Content as an array of text parts is the concatenation of their texts."""
    if not isinstance(value, list):
        return value
    if not all(isinstance(part, dict) and part.get("type") == "text" for part in value):
        raise ValueError("only content parts of type 'text' are supported")
    texts = [part.get("text") for part in value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a content part of type 'text' needs a 'text' that is a string")
    return "".join(texts)


class ChatMessage(Request):
    """One message; `developer` is OpenAI's newer word for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_join_text_parts)]
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = None


class ChatRequest(TextRequest):
    """A conversation to be continued."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2048)]
    max_completion_tokens: TokenCount | None = None
