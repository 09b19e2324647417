"""Keeps Serve's own orders and answers out of the ports behind HAProxy.

Around the application Serve reads headers that change how a request runs, tells its routes, and
answers some failures in plain text (ray/serve/_private/replica.py: `_direct_ingress_asgi`, and
proxy.py, to which HAProxy turns while there is no ingress replica). HAProxy lets no orders pass,
but whoever reaches these ports needs no HAProxy.
"""

import ipaddress
import logging
from typing import Any

import ray
from ray.serve._private import replica as serve_replica
from ray.serve._private.constants import RAY_SERVE_FALLBACK_PROXY_HTTP_PORT
from ray.serve._private.proxy_state import ProxyStateManager
from ray.serve.config import HTTPOptions
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import (
    ApiError,
    DeadlineExceededError,
    InternalError,
    OverloadedError,
    RouteNotFoundError,
)
from api.http.response import send_json
from api.middleware.request_id import is_acceptable
from deployments.ingress.control_headers import CONTROL_HEADERS

logger = logging.getLogger(__name__)

_ORDERS = frozenset(name.encode() for name in CONTROL_HEADERS)
_HEALTH_PATH = "/-/healthz"
"""HAProxy and Serve's controller ask here."""
_NO_ROUTE = RouteNotFoundError("There is no such URL; the API lives under /v1.")
_FAILURE = InternalError("The server had an error while processing the request.")
_TOO_SLOW = DeadlineExceededError("The request took longer than the service allows.")
_UNAVAILABLE = OverloadedError("No replica of the service can answer at the moment; try again.")

_start_server = serve_replica.start_asgi_http_server
_start_proxy = ProxyStateManager._start_proxy


def guard_http_ports() -> list[Middleware]:
    """Guard the HTTP ports that Serve opens in this process after a constructor.

    Serve's proxy calls this too (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`), and puts what is
    returned around its port.
    """
    serve_replica.start_asgi_http_server = _start_guarded_server
    return [Middleware(HttpPort)]


def guard_proxy_address() -> None:
    """Let Serve's proxy listen where only HAProxy needs it.

    The controller calls this before it starts (`RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH`).
    """
    ProxyStateManager._start_proxy = _start_proxy_for_haproxy


def _start_proxy_for_haproxy(
    manager: ProxyStateManager,
    *,
    node_ip_address: str,
    http_options: HTTPOptions | None = None,
    **settings: Any,
) -> Any:
    if http_options is not None and http_options.port == RAY_SERVE_FALLBACK_PROXY_HTTP_PORT:
        http_options.host = _to_host(http_options.host, node_ip_address)
    return _start_proxy(
        manager, http_options=http_options, node_ip_address=node_ip_address, **settings
    )


async def _start_guarded_server(app: ASGIApp, options: HTTPOptions, **settings: Any) -> Any:
    if all(middleware.cls is not HttpPort for middleware in options.middlewares):
        options.middlewares.append(Middleware(HttpPort))
    options.host = _to_host(options.host, ray.util.get_node_ip_address())
    return await _start_server(app, options, **settings)


def _to_host(host: str, node: str) -> str:
    """Return where to listen for HAProxy if HAProxy listens at `host`.

    HAProxy is on this node too, or else on another one and connects to this node's address. On one
    machine both are the loopback address, whomever HAProxy itself listens for.
    """
    return node if ipaddress.ip_address(node).is_loopback else host


class HttpPort:
    """Middleware around all that Serve does with a request."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap Serve's application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Serve handle a request, without the orders of the client."""
        if scope["type"] != "http" or scope["path"] == _HEALTH_PATH:
            await self._app(scope, receive, send)
        elif scope["path"] == "/-/routes":
            await _send_error(send, _NO_ROUTE)
        else:
            scope["headers"] = _without_orders(scope["headers"])
            await self._run(scope, receive, Answer(send))

    async def _run(self, scope: Scope, receive: Receive, answer: "Answer") -> None:
        try:
            await self._app(scope, receive, answer.send)
        except Exception:  # Serve's own: the application answers for its errors itself
            logger.exception("Serve failed on a request")
            if answer.is_started:
                raise  # the server then aborts the connection instead of ending it cleanly
            await _send_error(answer.send, _FAILURE)


class Answer:
    """Sends what the application answers, and what Serve itself answers as an error of ours."""

    def __init__(self, send: Send) -> None:
        """Send with `send`."""
        self._send = send
        self._replaces: ApiError | None = None
        self.is_started = False

    async def send(self, message: Message) -> None:
        """Send a message, or its replacement."""
        if not self.is_started:
            self.is_started = True
            self._replaces = _find_replacement(message)
            if self._replaces is not None:
                await _send_error(self._send, self._replaces)
        if self._replaces is None:
            await self._send(message)


def _find_replacement(message: Message) -> ApiError | None:
    """Serve's errors are plain text; the application has no such answer.

    Also a 404 of Serve's means that it knows no replica, because an ingress takes all paths.
    """
    if message["type"] != "http.response.start" or message["status"] < 400:
        return None
    media_type = dict(map(tuple, message["headers"])).get(b"content-type", b"")
    if not media_type.startswith(b"text/plain"):
        return None
    return _TOO_SLOW if message["status"] == 408 else _UNAVAILABLE


async def _send_error(send: Send, error: ApiError) -> None:
    await send_json(send, error.body(), error.status, error.headers())


def _without_orders(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    ids = [value for name, value in headers if name == b"x-request-id"]
    dropped = _ORDERS
    if ids and (len(ids) > 1 or not is_acceptable(ids[0].decode("latin-1"))):
        dropped = _ORDERS | {b"x-request-id"}
    return [header for header in headers if header[0] not in dropped]
