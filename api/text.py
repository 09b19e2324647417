"""The flow that chat and completions share: ask an LLM, answer whole or as a stream."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from api.backends import Completion, Delta, Generation, LlmBackend, Sampling, TextStream, Usage
from api.errors import ApiError, InvalidRequest
from api.exchange import deadline, read_json_body, send_json, while_connected
from api.limits import Limits
from api.registry import Models
from api.request_id import get_request_id
from api.schema.common import TextRequest
from api.shield import find_raw_send
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
        ignore_eos=request.ignore_eos,
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


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as read: what was sent, what it means for a model, how to word the answer."""

    request: TextRequest
    generation: Generation
    answer: Answer


class TextEndpoint:
    """An endpoint that asks an LLM: read → look up → call → write."""

    def __init__(
        self, read: Callable[[bytes, str, Limits], Asked], models: Models, limits: Limits
    ) -> None:
        """Serve the LLMs among `models`; `read` takes the body, the request's id and the limits."""
        self._read = read
        self._models = models
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = await read_json_body(scope, receive, self._limits)
        asked = self._read(body, get_request_id(scope), self._limits)
        backend = self._models.llm(asked.request.model)
        if asked.request.stream:
            events = EventStream(send, find_raw_send(scope))
            writing = _write_stream(asked, backend, self._limits, events)
        else:
            writing = _write_whole(asked, backend, self._limits, send)
        await while_connected(receive, writing)


async def _write_whole(asked: Asked, backend: LlmBackend, limits: Limits, send: Send) -> None:
    async with deadline(limits):
        completion = await backend.complete(asked.generation)
    await send_json(send, asked.answer.whole(completion))


async def _write_stream(
    asked: Asked, backend: LlmBackend, limits: Limits, events: EventStream
) -> None:
    """After the first event an error becomes one more; before, it has a status of its own."""
    stream = backend.stream(asked.generation)
    try:
        await _write_events(stream, asked, limits, events)
    except ApiError as error:
        if not events.is_started:
            raise
        request_id = asked.generation.request_id
        logger.warning("request %s: the stream broke off: %s", request_id, error.code)
        await events.fail(error)
    finally:
        await stream.aclose()


async def _write_events(
    stream: TextStream, asked: Asked, limits: Limits, events: EventStream
) -> None:
    """Write events as deltas come, then the usage if it was asked for."""
    answer = asked.answer
    async with deadline(limits):
        async for deltas in stream:
            await events.write([chunk for delta in deltas for chunk in answer.chunks(delta)])
    if wants_usage(asked.request):
        await events.write([answer.usage_chunk(stream.completion.usage)])
    await events.end()


def wants_usage(request: TextRequest) -> bool:
    """Whether a stream is to end with its usage."""
    return request.stream_options is not None and request.stream_options.include_usage


def to_usage(usage: Usage) -> dict[str, Any]:
    """Source: OpenAI openapi.yaml, schema `CompletionUsage`."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def to_usage_chunk(head: bytes, usage: Usage) -> bytes:
    """The event with the usage and no choices; `head` is an object's JSON up to its last field."""
    return head + b',"choices":[],"usage":%b}' % json.dumps(to_usage(usage)).encode()


def to_ascii_json(text: str) -> bytes:
    """A JSON string in ASCII."""
    return encode_basestring_ascii(text).encode("ascii")
