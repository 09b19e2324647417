"""The data that models stream: deltas of text, progress of images, and usage."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import msgspec

FinishReason = Literal["stop", "length", "tool_calls"]


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The log probability of a token, and of the most likely tokens at its position."""

    text: str
    logprob: float | None
    """Natural logarithm; None for the first token, which has no context."""
    data: bytes
    """Bytes of the token, which need not be valid UTF-8."""
    top: "tuple[TokenLogprob, ...]" = ()


class ToolCallDelta(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An increment of a tool call; only its first delta has `id` and `name`."""

    index: int
    id: str | None
    name: str | None
    arguments: str


class ImageProgress(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The progress of an image in denoising steps, sometimes with a preview."""

    step: int
    """Steps that are done."""
    steps: int
    """Steps in total."""
    preview: bytes = b""
    """An image file in the response's format; empty for most steps."""


class Extra(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a delta may carry besides text."""

    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


class TextDelta(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An increment of one choice; the last delta of a choice has the finish reason."""

    index: int
    text: str
    finish_reason: FinishReason | None = None
    extra: Extra | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Exact token counts of one request."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Tokens of the prompt that came from the prefix cache."""
    reasoning_tokens: int = 0
    """Tokens of the completion that are reasoning."""


Delta = TypeVar("Delta")
Delta_co = TypeVar("Delta_co", covariant=True)
Result_co = TypeVar("Result_co", covariant=True)


Consume = Callable[[Sequence[Delta]], Awaitable[None] | None]
"""Takes deltas, on the event loop but in no task: none wakes up for a delta.

Returns what must be awaited before it can take more, or None.
"""


class ModelStream(Protocol[Delta_co, Result_co]):
    """A streamed call to a model under way."""

    async def forward(self, consume: Consume[Delta_co]) -> Result_co:
        """Pass deltas to `consume` as they arrive, in order, and return the result after them.

        Raises:
            ApiError: the call failed.
            Exception: what `consume` raises.
        """

    async def aclose(self) -> None:
        """Cancel the call. Safe at any time, also after the end."""
