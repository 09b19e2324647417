"""The one place where errors become responses: ours as they are, all others as a plain 500."""

import logging
import time

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ApiError, InternalError
from api.http.response import send_json
from api.middleware.request_id import get_request_id

logger = logging.getLogger(__name__)

_VERSION = b"2020-10-01"
_RAW_SEND = "triptych.raw_send"


class ErrorMiddleware:
    """Middleware: nothing but JSON of OpenAI's error format leaves when something goes wrong."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an ASGI application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application and answer in its place if it fails before it has answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_started = False
        began_s = time.perf_counter()
        scope[_RAW_SEND] = send

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
        except Exception:  # the outermost layer: whatever it is, the client gets a clean 500
            logger.exception("request %s failed", get_request_id(scope))
            if is_started:
                # Re-raised, so that the server breaks the connection instead of ending it cleanly.
                raise
            fault = InternalError("The server had an error while processing the request.")
            await send_json(tracked_send, fault.body(), fault.status)


def _with_headers(message: Message, began_s: float) -> Message:
    """What OpenAI's API says with every answer: its version, and how long the answer took."""
    if message["type"] != "http.response.start":
        return message
    took_ms = round((time.perf_counter() - began_s) * 1000)
    own = [(b"openai-version", _VERSION), (b"openai-processing-ms", b"%d" % took_ms)]
    return {**message, "headers": [*message["headers"], *own]}


def find_unwrapped_send(scope: Scope) -> Send | None:
    """The `send` from outside the shield: for what follows the start of a response."""
    send: Send | None = scope.get(_RAW_SEND)
    return send
