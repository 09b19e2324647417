"""The flow that chat and completions share: ask an LLM, answer whole or as a stream."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec
from starlette.types import Receive, Scope, Send

from api.access.admission import rate_limited
from api.access.request_context import build_request_context
from api.errors import ApiError, InvalidRequestError, UnsupportedParameterError
from api.http.body import read_json_body
from api.http.lifetime import deadline, while_connected
from api.http.parsing import Read, read_request
from api.http.response import send_bytes, send_json
from api.http.sse import EventStream
from api.middleware.auth import get_key_for
from api.middleware.errors import find_unwrapped_send
from api.middleware.request_id import get_request_id
from api.ports.prompt_log import PromptLog
from api.ports.stream import Delta, Usage
from api.ports.tenancy import Key
from api.ports.text import Completion, Generation, LlmBackend, Sampling, TextStream
from api.registry import Llm, Models, TextOptions
from api.schema.common import TextRequest
from api.services import Services
from api.settings import Limits
from api.text.last_chunk_usage import LastChunkBuffer

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

    def closing_chunks(self, delta: Delta, usage: Usage) -> list[bytes]:
        """The events for the last delta of all; the last of them carries the usage."""


@dataclass(frozen=True, slots=True)
class Heading:
    """What every object of one answer repeats."""

    id: str
    model: str
    created_s: int
    fingerprint: str

    @classmethod
    def new(cls, prefix: str, request_id: str, model: str, options: TextOptions) -> "Heading":
        """Head an answer that begins now."""
        return cls(f"{prefix}-{request_id}", model, int(time.time()), options.fingerprint)


def to_sampling(
    request: TextRequest, max_tokens: int | None, default_max_tokens: int | None, **more: Any
) -> Sampling:
    """What a request says about choosing tokens, as the backends want it."""
    allowed = request.allowed_token_ids
    return Sampling(
        temperature=request.temperature,
        # OpenAI allows 0, which means "only the likeliest token"; engines want it above 0.
        top_p=_SMALLEST_TOP_P if request.top_p == 0 else request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        n=request.n,
        stop=tuple(request.stop),
        stop_token_ids=tuple(request.stop_token_ids),
        include_stop_str_in_output=request.include_stop_str_in_output,
        max_tokens=max_tokens,
        default_max_tokens=default_max_tokens,
        min_tokens=request.min_tokens,
        seed=request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=request.logit_bias or None,
        bad_words=tuple(request.bad_words),
        allowed_token_ids=None if allowed is None else tuple(allowed),
        ignore_eos=request.ignore_eos,
        skip_special_tokens=request.skip_special_tokens,
        **more,
    )


def check_text_request(request: TextRequest, prompts: int, limits: Limits) -> None:
    """Check what concerns several parameters at once.

    Raises:
        InvalidRequestError: too many choices, or `stream_options` without `stream`.
    """
    if prompts * request.n > limits.max_choices:
        raise InvalidRequestError(
            f"Invalid value for 'n': {prompts} prompts with n={request.n} make "
            f"{prompts * request.n} choices, and the limit is {limits.max_choices}.",
            param="n",
        )
    if request.stream_options is not None and not request.stream:
        raise InvalidRequestError(
            "Invalid value for 'stream_options': it is only allowed when 'stream' is true.",
            param="stream_options",
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as read: what it means for a model, and how to word the answer."""

    generation: Generation
    answer: Answer
    usage_placement: str | None
    """None if a stream is not to say its usage."""
    headers: dict[str, str]


class TextEndpoint:
    """An endpoint that asks an LLM: read → look up → call → write."""

    def __init__(
        self,
        endpoint: str,
        schema: type[TextRequest],
        interpret: Callable[..., tuple[Generation, Answer]],
        models: Models,
        rules: Services,
        prepare: Callable[[Any], Awaitable[Any]] | None = None,
    ) -> None:
        """Serve the LLMs among `models`.

        Args:
            endpoint: its path without `/v1/`.
            schema: of the body.
            interpret: takes a request of that schema, the model, the request's id and the limits;
                gives what to ask, and how to answer.
            models: what to serve.
            rules: what one request may be.
            prepare: makes another request of it first, which may take a while.
        """
        self._schema = schema
        self._interpret = interpret
        self._endpoint = endpoint
        self._models = models
        self._rules = rules
        self._limits = rules.limits
        self._prepare = prepare

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        key = get_key_for(scope, "chat")
        body = await read_json_body(scope, receive, self._limits)
        read = read_request(body, self._schema, self._rules.policy.parameters)
        llm = self._models.for_key(key).get_llm(read.request.model, read.request.peft)
        read = self._leave_out(read, llm.options.unsupported)
        prompt_log = self._rules.prompt_log if key.may_log_prompts else None
        # Before the pictures of other servers: fetching them is work that the key asks for.
        async with rate_limited(self._rules.limiter, key) as place:
            headers = {**_to_headers(read, prompt_log), **place.headers}

            async def answer() -> None:
                asked = await self._to_asked(read.request, llm, key, get_request_id(scope), headers)
                if read.request.log_prompt and prompt_log:
                    prompt_log.keep(asked.generation.request_id, read.request.model, body)
                if read.request.stream:
                    events = EventStream(send, find_unwrapped_send(scope), headers)
                    await _write_stream(asked, llm.backend, self._limits, events)
                else:
                    await _write_whole(asked, llm.backend, self._limits, send)

            await while_connected(receive, answer())

    async def _to_asked(
        self, request: Any, llm: Llm, key: Key, request_id: str, headers: dict[str, str]
    ) -> Asked:
        if self._prepare is not None:
            async with deadline(self._limits):
                request = await self._prepare(request)
        generation, answer = self._interpret(request, llm, request_id, self._limits)
        context = build_request_context(
            key,
            request,
            endpoint=self._endpoint,
            cache_salt=self._rules.cache_salt,
            is_streamed=request.stream,
        )
        placement = find_usage_placement(request, llm.options)
        return Asked(replace(generation, context=context), answer, placement, headers)

    def _leave_out(self, read: Read[TextRequest], unsupported: frozenset[str]) -> Read[TextRequest]:
        """Treat what this one model cannot honour as what none can."""
        request = read.request
        names = [name for name in unsupported if name in request.model_fields_set]
        if not names:
            return read
        if self._rules.policy.parameters == "strict":
            raise UnsupportedParameterError(
                f"The parameter '{names[0]}' is not supported by this model.", param=names[0]
            )
        fields = type(request).model_fields
        defaults = {name: fields[name].get_default(call_default_factory=True) for name in names}
        return Read(request.model_copy(update=defaults), (*read.ignored, *names))


def _to_headers(read: Read[TextRequest], prompt_log: PromptLog | None) -> dict[str, str]:
    """Headers that say which parameters were without effect."""
    unheard = []
    if read.request.log_prompt and prompt_log is None:
        unheard.append("log_prompt")
    options = read.request.stream_options
    if options is not None and options.include_obfuscation:
        unheard.append("stream_options.include_obfuscation")
    return Read(read.request, (*read.ignored, *unheard)).headers()


async def _write_whole(asked: Asked, backend: LlmBackend, limits: Limits, send: Send) -> None:
    async with deadline(limits):
        completion = await backend.complete(asked.generation)
    sampling = asked.generation.sampling
    if sampling.logprobs is None and sampling.prompt_logprobs is None:
        await send_json(send, asked.answer.whole(completion), headers=asked.headers)
        return
    # Of each token, which may be millions: not on the event loop.
    body = await asyncio.to_thread(lambda: msgspec.json.encode(asked.answer.whole(completion)))
    await send_bytes(send, body, headers=asked.headers)


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
    """Write events as deltas come, and the usage where it belongs."""
    answer = asked.answer
    held_back = LastChunkBuffer() if asked.usage_placement == "last_chunk" else None
    async with deadline(limits):
        async for deltas in stream:
            ready: Sequence[Delta] = held_back.swap(deltas) if held_back else deltas
            await events.write([chunk for delta in ready for chunk in answer.chunks(delta)])
    if held_back and held_back.delta:
        await events.write(answer.closing_chunks(held_back.delta, stream.completion.usage))
    elif asked.usage_placement:
        await events.write([answer.usage_chunk(stream.completion.usage)])
    await events.end()


def find_usage_placement(request: TextRequest, options: TextOptions) -> str | None:
    """Where a stream's usage goes; None if nobody has asked for it."""
    asked = request.stream_options
    if asked is None:
        return None
    placement = asked.usage_placement or options.usage_placement
    # The dialect that has it in the last chunk knows no `include_usage`.
    return placement if asked.include_usage or placement == "last_chunk" else None
