"""Turns errors into responses: an ApiError as it describes itself, any other as a plain 500."""

import logging
import time

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ApiError, InternalError
from api.http.response import send_json
from api.middleware.request_id import get_request_id

logger = logging.getLogger(__name__)

_VERSION = b"2020-10-01"
_SCOPE_KEY = "triptych.unwrapped_send"


class ErrorMiddleware:
    """Middleware: answers every error with JSON in OpenAI's error format."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an ASGI application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, and answer for it if it fails before its response starts."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_started = False
        began_s = time.perf_counter()
        scope[_SCOPE_KEY] = send

        async def tracked_send(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(_with_headers(message, began_s))

        try:
            await self._app(scope, receive, tracked_send)
        except ClientDisconnect:
            return
        except ApiError as error:
            if is_started:
                raise
            await send_json(tracked_send, error.body(), error.status, error.headers())
        except Exception:  # the outermost layer: the client must get a clean 500
            logger.exception("request %s failed", get_request_id(scope))
            if is_started:
                raise  # the server then aborts the connection instead of ending it cleanly
            internal = InternalError("The server had an error while processing the request.")
            await send_json(tracked_send, internal.body(), internal.status)


def _with_headers(message: Message, began_s: float) -> Message:
    """Add the headers of every response of OpenAI's API: its version, and the time taken."""
    if message["type"] != "http.response.start":
        return message
    took_ms = round((time.perf_counter() - began_s) * 1000)
    added = [(b"openai-version", _VERSION), (b"openai-processing-ms", b"%d" % took_ms)]
    return {**message, "headers": [*message["headers"], *added]}


def find_unwrapped_send(scope: Scope) -> Send | None:
    """Return the `send` from outside ErrorMiddleware, for use after the response has started."""
    send: Send | None = scope.get(_SCOPE_KEY)
    return send
