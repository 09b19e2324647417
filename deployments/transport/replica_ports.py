"""Where the two ports listen that Serve opens in every replica.

Serve opens the gRPC port on all interfaces (ray/serve/_private/replica.py: `[::]:0`), and callers
find it at the address of the replica's node. A call without Ray's token is refused only after its
message has been read, so whoever reaches the port can fill the memory of the replica.

The HTTP port of a replica that is no ingress is of no use, and would call any method `__call__`.
"""

import json
from typing import Any

import ray
from ray.serve._private import replica as serve_replica
from ray.serve.config import HTTPOptions
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import RouteNotFoundError

_ALL_INTERFACES = "[::]:0"

_add_port = serve_replica.add_port_to_grpc_server
_start_server = serve_replica.start_asgi_http_server


class UnknownServeError(RuntimeError):
    """Serve opens the port in another way than this version of the service knows."""


def close_replica_ports() -> None:
    """Replace the functions by which Serve opens the ports after the replica's constructor."""
    listen_at_own_address_only()
    serve_replica.start_asgi_http_server = _start_closed_server


def listen_at_own_address_only() -> None:
    """Replace the function by which Serve opens the gRPC port after the constructor."""
    serve_replica.add_port_to_grpc_server = _add_port_at_own_address


def _add_port_at_own_address(server: Any, address: str) -> int:
    """Open a free port; `address` is the one that Serve wants.

    Raises:
        UnknownServeError: Serve wants another one than all interfaces and any port.
    """
    if address != _ALL_INTERFACES:
        raise UnknownServeError(f"Serve opens its gRPC port at {address!r}")
    host = ray.util.get_node_ip_address()
    port: int = _add_port(server, f"[{host}]:0" if ":" in host else f"{host}:0")
    return port


async def _start_closed_server(app: ASGIApp, options: HTTPOptions, **settings: Any) -> Any:
    options.host = "127.0.0.1"
    options.middlewares.append(Middleware(NoRoutes))
    return await _start_server(app, options, **settings)


class NoRoutes:
    """Middleware: no URL leads to the application, except Serve's health check."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope.get("path") == "/-/healthz":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            error = RouteNotFoundError("There is no such URL.")
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": error.status, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps(error.body()).encode()})
        else:
            await send({"type": "websocket.close"})
