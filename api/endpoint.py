"""The steps of every model endpoint, whole or streamed, over HTTP or called directly.

    parse → resolve the model → prepare → admit → call → render

What differs between endpoints is a `Dialect`: how a body is parsed, which model it names and how
the request is prepared. All checks of a request are done before it is admitted, so an invalid
request never counts against its key's limits. `Endpoint.answer` needs no ASGI: batch jobs and
other dialects call it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from starlette.datastructures import URL, Headers
from starlette.types import Receive, Scope, Send

from api.access.admission import Permit, rate_limited
from api.access.request_context import build_request_context
from api.cold_start import ColdStartWait, find_cold_start
from api.errors import ApiError
from api.http.client_timeout import find_timeout_s
from api.http.lifetime import deadline, while_connected
from api.http.parsing import ParsedRequest
from api.http.response import send_bytes
from api.http.sse import Event, EventStream
from api.middleware.auth import get_key_for
from api.middleware.errors import find_unwrapped_send
from api.middleware.request_id import get_request_id
from api.ports.stream import ModelStream
from api.ports.tenancy import Key, RequestContext
from api.ports.tenancy import Scope as KeyScope
from api.registry import Models, Registry
from api.services import Services

logger = logging.getLogger(__name__)

_LOADED: nullcontext[Callable[[], object]] = nullcontext(lambda: None)

Body = TypeVar("Body")
"""Type of a request's body: the bytes of a JSON document, or a form."""
Parsed = TypeVar("Parsed", bound=ParsedRequest[Any])
Model = TypeVar("Model")


@dataclass(frozen=True, slots=True)
class Caller:
    """The key that sent a request, and the URL by which the request arrived."""

    key: Key
    request_id: str
    find_base_url: Callable[[], str] = str
    """Returns scheme and host of the request's URL, without a trailing slash."""


@dataclass(frozen=True, slots=True)
class RequestMeta:
    """Properties of a request besides its parameters, for `Dialect.prepare`."""

    request_id: str
    context: RequestContext
    find_base_url: Callable[[], str]
    may_log_prompts: bool


class StreamRenderer(Protocol):
    """Renders a streamed answer in one dialect, including how the stream begins and ends."""

    def render_deltas(self, deltas: Sequence[Any]) -> list[Event]:
        """Render the events of some deltas; the first call adds those that begin the stream."""

    def render_end(self, result: Any) -> list[Event]:
        """Render the events that complete the stream."""

    def render_error(self, error: ApiError) -> list[Event]:
        """Render the events of a failure after the first event."""


@dataclass(frozen=True, slots=True)
class PreparedStream:
    """The streamed call of a request."""

    open: Callable[[], Awaitable[ModelStream[Any, Any]]]
    renderer: StreamRenderer


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A valid request, ready to be admitted and sent to its model."""

    request_id: str
    call: Callable[[], Awaitable[Any]]
    """Calls the model and returns its whole result."""
    render: Callable[[Any], Awaitable[bytes]]
    """Renders the whole result as JSON."""
    stream: PreparedStream | None = None
    """None if the client did not request a stream."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Additional response headers."""
    images: int = 0
    """Images that count against the key's limits."""
    pixel_steps: int = 0
    """Of all these images together."""


class Dialect(Protocol[Body, Parsed, Model]):
    """The steps that differ between endpoints."""

    endpoint: str
    """The path without `/v1/`."""
    key_scope: KeyScope
    """The scope that a key must have."""

    async def read_body(self, scope: Scope, receive: Receive) -> Body:
        """Read the body within the limits of size and time."""

    def parse(self, body: Body) -> Parsed:
        """Validate each parameter by itself.

        Raises:
            InvalidRequestError: a parameter is missing, unknown, unsupported or invalid.
        """

    def resolve(self, registry: Registry, request: Any) -> Model:
        """Find the model that the request names.

        Raises:
            ModelNotFoundError, WrongModelKindError, ModelFailedError: as `Registry.get`.
        """

    def prepare(self, parsed: Parsed, model: Model, meta: RequestMeta) -> PreparedRequest:
        """Check what needs the model or several parameters, and translate the request for it.

        Raises:
            InvalidRequestError: the request is not valid for this model or service.
        """


class Endpoint(Generic[Body, Parsed, Model]):
    """One endpoint as an ASGI application, and as a function."""

    def __init__(
        self, dialect: Dialect[Body, Parsed, Model], models: Models, services: Services
    ) -> None:
        """Serve `models` in one dialect."""
        self._dialect = dialect
        self._models = models
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        with self._services.draining.admit():
            await self._answer_http(scope, receive, send)

    async def _answer_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = get_key_for(scope, self._dialect.key_scope)
        caller = Caller(key, get_request_id(scope), partial(_to_base_url, scope))
        # No name for the body: it is not kept while the answer is on its way.
        prepared, cold_start = self._prepare(await self._dialect.read_body(scope, receive), caller)
        stream = prepared.stream
        timeout_s = find_timeout_s(
            Headers(scope=scope),
            self._services.limits.request_timeout_s,
            is_streamed=stream is not None,
        )
        async with self._admit(key, prepared) as permit:
            headers = {**prepared.headers, **permit.headers}
            if stream is None:
                call = partial(self._call, prepared, cold_start, timeout_s)
                responding = self._send_whole(prepared, call, permit, send, headers)
            else:
                events = EventStream(send, find_unwrapped_send(scope), headers)
                send_deltas = partial(self._send_deltas, stream, cold_start, timeout_s, events)
                responding = self._send_stream(prepared, stream, send_deltas, permit, events)
            await while_connected(receive, responding)

    async def answer(self, body: Body, caller: Caller) -> bytes:
        """Answer one request without HTTP, whole, as JSON.

        Raises:
            ApiError: the request is invalid, over a limit of its key, or its model failed.
        """
        prepared, cold_start = self._prepare(body, caller)
        async with self._admit(caller.key, prepared) as permit:
            timeout_s = self._services.limits.request_timeout_s
            answer = await self._call(prepared, cold_start, timeout_s)
            permit.delivered_images = prepared.images
            return answer

    def _admit(self, key: Key, prepared: PreparedRequest) -> AbstractAsyncContextManager[Permit]:
        """Hold a place in the key's limits for the length of a block."""
        limiter = self._services.limiter
        return rate_limited(limiter, key, prepared.images, prepared.pixel_steps)

    def _prepare(self, body: Body, caller: Caller) -> tuple[PreparedRequest, ColdStartWait | None]:
        """Parse, resolve and prepare: all checks of the request, and whether it must wait."""
        dialect = self._dialect
        parsed = dialect.parse(body)
        model = dialect.resolve(self._models.for_key(caller.key), parsed.request)
        context = build_request_context(
            caller.key,
            parsed.request,
            endpoint=dialect.endpoint,
            cache_salt=self._services.cache_salt,
        )
        meta = RequestMeta(
            caller.request_id, context, caller.find_base_url, caller.key.may_log_prompts
        )
        prepared = dialect.prepare(parsed, model, meta)
        return prepared, find_cold_start(self._models, parsed.request.model)

    async def _call(
        self, prepared: PreparedRequest, cold_start: ColdStartWait | None, timeout_s: float
    ) -> bytes:
        wait_s = self._services.cold_start.whole_wait_s
        waiting = cold_start.limit(wait_s) if cold_start else nullcontext()
        async with deadline(timeout_s, self._services.draining), waiting:
            result = await prepared.call()
        return await prepared.render(result)

    async def _send_whole(
        self,
        prepared: PreparedRequest,
        call: Callable[[], Awaitable[bytes]],
        permit: Permit,
        send: Send,
        headers: dict[str, str],
    ) -> None:
        await send_bytes(send, await call(), headers=headers)
        permit.delivered_images = prepared.images

    async def _send_stream(
        self,
        prepared: PreparedRequest,
        stream: PreparedStream,
        send_deltas: Callable[[], Awaitable[Any]],
        permit: Permit,
        events: EventStream,
    ) -> None:
        """Stream the answer; an error after the first event becomes an event itself."""
        renderer = stream.renderer
        try:
            result = await send_deltas()
            await events.write(renderer.render_end(result), is_last=True)
            permit.delivered_images = prepared.images
        except ApiError as error:
            if not events.is_started:
                raise
            logger.warning("request %s: the stream failed: %s", prepared.request_id, error.code)
            await events.write(renderer.render_error(error), is_last=True)

    async def _send_deltas(
        self,
        prepared: PreparedStream,
        cold_start: ColdStartWait | None,
        timeout_s: float,
        events: EventStream,
    ) -> Any:
        """Send the events of the deltas, and return the result."""
        render, stream = prepared.renderer.render_deltas, None
        try:
            async with deadline(timeout_s, self._services.draining):
                waiting = self._commenting(cold_start, events) if cold_start else _LOADED
                async with waiting as on_delta:
                    stream = await prepared.open()

                    def consume(deltas: Sequence[Any]) -> Awaitable[None] | None:
                        on_delta()
                        return events.push(render(deltas))

                    return await stream.forward(consume)
        finally:
            if stream is not None:
                await stream.aclose()

    @asynccontextmanager
    async def _commenting(
        self, cold_start: ColdStartWait, events: EventStream
    ) -> AsyncIterator[Callable[[], object]]:
        """Send comments during the block, until the function that it gets is called."""
        settings = self._services.cold_start
        async with cold_start.limit(settings.stream_wait_s):
            comments = asyncio.create_task(cold_start.comment(events, settings.comment_interval_s))
            try:
                yield comments.cancel
            finally:
                comments.cancel()
                await asyncio.wait({comments})
                # An exception means that the client has gone, which is noticed elsewhere.
                _ = comments.cancelled() or comments.exception()


def _to_base_url(scope: Scope) -> str:
    url = URL(scope=scope)
    return f"{url.scheme}://{url.netloc}"
