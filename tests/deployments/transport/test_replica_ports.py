"""Where a replica's ports listen, and what its HTTP port answers."""

import inspect
import json
from typing import Any

import pytest
from ray.serve._private import replica as serve_replica
from ray.serve.config import HTTPOptions
from starlette.types import Message, Receive, Scope, Send

from deployments.transport import replica_ports
from deployments.transport.replica_ports import (
    NoRoutes,
    UnknownServeError,
    close_replica_ports,
    listen_at_own_address_only,
)


class GrpcServer:
    """Records the addresses that are opened."""

    def __init__(self) -> None:
        self.addresses: list[str] = []

    def add_insecure_port(self, address: str) -> int:
        self.addresses.append(address)
        return 4321


@pytest.fixture(autouse=True)
def original(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("add_port_to_grpc_server", "start_asgi_http_server"):
        monkeypatch.setattr(serve_replica, name, getattr(serve_replica, name))


@pytest.mark.parametrize(
    ("node", "address"),
    [("127.0.0.1", "127.0.0.1:0"), ("10.1.2.3", "10.1.2.3:0"), ("fd00::1", "[fd00::1]:0")],
)
def test_port_is_opened_at_the_address_of_the_node(
    monkeypatch: pytest.MonkeyPatch, node: str, address: str
) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: node)
    server = GrpcServer()
    listen_at_own_address_only()

    port = serve_replica.add_port_to_grpc_server(server, "[::]:0")

    assert (port, server.addresses) == (4321, [address])


def test_other_wish_of_serve_is_refused() -> None:
    listen_at_own_address_only()

    with pytest.raises(UnknownServeError):
        serve_replica.add_port_to_grpc_server(GrpcServer(), "0.0.0.0:7")


def test_serve_opens_the_port_by_the_name_that_is_replaced() -> None:
    source = inspect.getsource(serve_replica)

    assert (
        source.count(f'add_port_to_grpc_server(self._server, "{replica_ports._ALL_INTERFACES}")')
        == 1
    )
    assert source.count("add_port_to_grpc_server(") == 1


async def test_http_port_of_a_model_is_closed_to_all_but_health_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[Any] = []

    async def start(app: Any, options: HTTPOptions, **settings: Any) -> None:
        started.append(options)

    monkeypatch.setattr(replica_ports, "_start_server", start)
    close_replica_ports()
    await serve_replica.start_asgi_http_server(None, HTTPOptions(host="0.0.0.0"))

    assert started[0].host == "127.0.0.1"
    assert [middleware.cls for middleware in started[0].middlewares] == [NoRoutes]


async def record(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "reached", "path": scope["path"]})


@pytest.mark.parametrize(
    ("scope", "types"),
    [
        ({"type": "http", "path": "/-/healthz"}, ["reached"]),
        ({"type": "http", "path": "/-/routes"}, ["http.response.start", "http.response.body"]),
        ({"type": "http", "path": "/"}, ["http.response.start", "http.response.body"]),
        ({"type": "websocket", "path": "/"}, ["websocket.close"]),
    ],
)
async def test_no_url_leads_into_a_model_replica(scope: Scope, types: list[str]) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await NoRoutes(record)(scope, None, send)  # type: ignore[arg-type]

    assert [message["type"] for message in sent] == types
    if len(sent) == 2:
        assert sent[0]["status"] == 404
        assert json.loads(sent[1]["body"])["error"]["code"] == "not_found"
