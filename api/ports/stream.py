"""What a model streams back: deltas of text, and the usage of a request."""

from dataclasses import dataclass
from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls"]


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How likely a token was; `top` holds the likeliest ones in its place, itself as it comes.

    `logprob` is a natural logarithm; None stands for the first token, which follows nothing.
    `data` is the bytes of the token, which alone need not be valid UTF-8.
    """

    text: str
    logprob: float | None
    data: bytes
    top: "tuple[TokenLogprob, ...]" = ()


class ToolCallDelta(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a tool call grew by; `id` and `name` come with its first piece only."""

    index: int
    id: str | None
    name: str | None
    arguments: str


class ImageProgress(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How many denoising steps of an image are done, sometimes with a preview."""

    step: int
    steps: int
    preview: bytes = b""
    """A file in the response's format; empty for most steps."""


class Extra(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a delta may carry beside text."""

    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What one choice grew by; the last one of a choice says why it ended."""

    index: int
    text: str
    finish_reason: FinishReason | None = None
    extra: Extra | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Exact token counts of one request; `cached_tokens` of the prompt came from a cache."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
