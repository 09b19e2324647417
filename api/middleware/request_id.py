"""Gives every request an id, and returns it in the response header `x-request-id`."""

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ACCEPTABLE = re.compile(r"[!-~]{1,128}")
_SCOPE_KEY = "triptych.request_id"


class RequestIdMiddleware:
    """Middleware: uses the client's request id if it is harmless, else generates one."""

    def __init__(self, app: ASGIApp, *, is_echoed_outside: bool = False) -> None:
        """Wrap an ASGI application.

        Args:
            app: the application.
            is_echoed_outside: the server itself adds the response header.
        """
        self._app = app
        self._is_echoed_outside = is_echoed_outside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Store the request id in the scope and in the response headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        offered = Headers(scope=scope).get("x-request-id", "")
        request_id = offered if is_acceptable(offered) else f"req_{secrets.token_hex(16)}"
        scope[_SCOPE_KEY] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send if self._is_echoed_outside else send_with_id)


def is_acceptable(offered: str) -> bool:
    """Return whether a client's request id can be logged, and sent back: printable and short."""
    return _ACCEPTABLE.fullmatch(offered) is not None


def get_request_id(scope: Scope) -> str:
    """Return the id that RequestIdMiddleware gave to a request."""
    return str(scope[_SCOPE_KEY])
