"""The flow that chat and completions share: ask an LLM, answer whole or as a stream."""

import logging
import time
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any, Protocol

from starlette.types import Send

from api.backends import Completion, Delta, Generation, LlmBackend, Sampling, TextStream, Usage
from api.errors import ApiError, InvalidRequest
from api.exchange import deadline, send_json
from api.limits import Limits
from api.schema.common import TextRequest
from api.sse import EventStream

logger = logging.getLogger(__name__)

_SMALLEST_TOP_P = 1e-6


class Answer(Protocol):
    """How one endpoint words its answers."""

    def whole(self, completion: Completion) -> dict[str, Any]:
        """The body of a response that is not streamed."""

    def chunks(self, delta: Delta) -> list[bytes]:
        """The events for one delta, as JSON in ASCII."""

    def usage_chunk(self, usage: Usage) -> bytes:
        """The event that carries the usage, after all choices have ended."""


@dataclass(frozen=True, slots=True)
class Heading:
    """What every object of one answer repeats."""

    id: str
    model: str
    created_s: int

    @classmethod
    def new(cls, prefix: str, request_id: str, model: str) -> "Heading":
        """Head an answer that begins now."""
        return cls(f"{prefix}-{request_id}", model, int(time.time()))


def to_sampling(request: TextRequest, max_tokens: int | None) -> Sampling:
    """What a request says about choosing tokens, as the backends want it."""
    return Sampling(
        temperature=request.temperature,
        # OpenAI allows 0, which means "only the likeliest token"; engines want it above 0.
        top_p=_SMALLEST_TOP_P if request.top_p == 0 else request.top_p,
        n=request.n,
        stop=tuple(request.stop),
        max_tokens=max_tokens,
        seed=request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
    )


def check_text_request(request: TextRequest, prompts: int, limits: Limits) -> None:
    """Check what concerns several parameters at once.

    Raises:
        InvalidRequest: too many choices, or `stream_options` without `stream`.
    """
    if prompts * request.n > limits.max_choices:
        raise InvalidRequest(
            f"Invalid value for 'n': {prompts} prompts with n={request.n} make "
            f"{prompts * request.n} choices, and the limit is {limits.max_choices}.",
            param="n",
        )
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest(
            "Invalid value for 'stream_options': it is only allowed when 'stream' is true.",
            param="stream_options",
        )


async def answer_text(
    request: TextRequest,
    generation: Generation,
    backend: LlmBackend,
    answer: Answer,
    limits: Limits,
    send: Send,
) -> None:
    """Generate, and write the response in the way the request asks for."""
    if not request.stream:
        async with deadline(limits):
            completion = await backend.complete(generation)
        await send_json(send, answer.whole(completion))
        return
    include_usage = request.stream_options is not None and request.stream_options.include_usage
    events = EventStream(send)
    stream = backend.stream(generation)
    try:
        await _write_stream(stream, answer, include_usage, limits, events)
    except ApiError as error:
        if not events.is_started:
            raise  # there is still time for a status of its own
        logger.warning("request %s: the stream broke off: %s", generation.request_id, error.code)
        await events.fail(error)
    finally:
        await stream.aclose()


async def _write_stream(
    stream: TextStream, answer: Answer, include_usage: bool, limits: Limits, events: EventStream
) -> None:
    """Write events as deltas come, then the usage if it was asked for."""
    async with deadline(limits):
        async for deltas in stream:
            await events.write([chunk for delta in deltas for chunk in answer.chunks(delta)])
    if include_usage:
        await events.write([answer.usage_chunk(stream.completion.usage)])
    await events.end()


def to_usage(usage: Usage) -> dict[str, Any]:
    """Source: OpenAI openapi.yaml, schema `CompletionUsage`."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def to_ascii_json(text: str) -> bytes:
    """A JSON string in ASCII."""
    return encode_basestring_ascii(text).encode("ascii")
