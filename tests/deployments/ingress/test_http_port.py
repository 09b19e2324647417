"""Serve's own orders and answers at a replica's port, with a stand-in for what Serve does."""

import asyncio
import importlib
import inspect
from typing import Any

import pytest
from ray.serve._private import replica as serve_replica
from ray.serve._private.constants import RAY_SERVE_FALLBACK_PROXY_HTTP_PORT
from ray.serve._private.http_util import convert_object_to_asgi_messages
from ray.serve._private.proxy_state import ProxyStateManager
from ray.serve.config import HTTPOptions
from starlette.types import Message, Receive, Scope, Send

from api.http.response import send_json
from deployments.config.serving_environment import load_serving_environment
from deployments.ingress import http_port
from deployments.ingress.control_headers import CONTROL_HEADERS
from deployments.ingress.http_port import HttpPort, guard_http_ports
from tests.helpers.asgi import Response, to_scope


class Serve:
    """What Serve does with a request: it answers with these messages, or fails."""

    def __init__(self, *messages: Message, failure: Exception | None = None) -> None:
        self.messages = messages
        self.failure = failure
        self.headers: dict[str, str] = {}
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope.get("path", ""))
        self.headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        for message in self.messages:
            await send(message)
        if self.failure:
            raise self.failure


async def ask(serve: Serve, path: str = "/", *headers: tuple[bytes, bytes]) -> Response:
    scope = to_scope("GET", path, {})
    scope["headers"] = list(headers)
    response = Response()

    async def send(message: Message) -> None:
        response.messages.append(message)

    async def receive() -> Message:
        return await asyncio.Event().wait()  # type: ignore[return-value]

    await HttpPort(serve)(scope, receive, send)
    return response


def own_answer(text: str, status: int) -> list[Message]:
    """Serve's own answer in plain text."""
    return convert_object_to_asgi_messages(text, status)


@pytest.mark.parametrize(
    ("status", "expected", "code"),
    [
        (404, 503, "server_is_overloaded"),
        (408, 504, "deadline_exceeded"),
        (499, 503, "server_is_overloaded"),
        (500, 503, "server_is_overloaded"),
        (503, 503, "server_is_overloaded"),
    ],
)
async def test_answers_of_serve_have_the_form_of_all_others(
    status: int, expected: int, code: str
) -> None:
    response = await ask(Serve(*own_answer("Ping http://.../-/routes", status)))

    assert len(response.messages) == 2
    assert response.status == expected
    assert response.json()["error"]["code"] == code
    assert ("retry-after" in response.headers) == (expected == 503)


async def test_answers_of_the_application_pass() -> None:
    messages: list[Message] = []

    async def record(message: Message) -> None:
        messages.append(message)

    await send_json(record, {"error": {}}, 404)
    response = await ask(Serve(*messages))

    assert response.messages == messages


async def test_text_that_is_no_error_passes() -> None:
    response = await ask(Serve(*own_answer("fine", 200)))

    assert (response.status, response.body) == (200, b"fine")


async def test_failure_of_serve_is_an_error_in_openais_form() -> None:
    response = await ask(Serve(failure=UnicodeDecodeError("utf-8", b"x", 0, 1, "bad")))

    assert response.status == 500
    assert response.json()["error"]["code"] == "internal_error"


async def test_failure_within_an_answer_breaks_it_off() -> None:
    start: Message = {"type": "http.response.start", "status": 200, "headers": []}

    with pytest.raises(RuntimeError):
        await ask(Serve(start, failure=RuntimeError()))


@pytest.mark.parametrize("header", CONTROL_HEADERS)
async def test_orders_to_serve_do_not_arrive(header: str) -> None:
    serve = Serve()
    await ask(serve, "/", (header.encode(), b"\xff"), (b"accept", b"a"))

    assert serve.headers == {"accept": "a"}


@pytest.mark.parametrize("values", [[b"\xe9"], [b"x" * 129], [b"a b"], [b"a", b"b"]])
async def test_request_id_that_cannot_be_logged_does_not_arrive(values: list[bytes]) -> None:
    serve = Serve()
    await ask(serve, "/", *((b"x-request-id", value) for value in values))

    assert serve.headers == {}


async def test_request_id_that_can_be_logged_arrives() -> None:
    serve = Serve()
    await ask(serve, "/", (b"x-request-id", b"req_1"))

    assert serve.headers == {"x-request-id": "req_1"}


async def test_routes_are_not_told() -> None:
    serve = Serve()
    response = await ask(serve, "/-/routes")

    assert response.json()["error"]["code"] == "not_found"
    assert serve.paths == []


async def test_health_check_of_serve_is_left_alone() -> None:
    response = await ask(Serve(*own_answer("unhealthy", 503)), "/-/healthz")

    assert (response.status, response.body) == (503, b"unhealthy")


@pytest.mark.parametrize(
    ("wanted", "node", "host"),
    [
        ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "10.0.0.2", "0.0.0.0"),
    ],
)
async def test_replica_of_a_single_machine_listens_at_loopback_only(
    monkeypatch: pytest.MonkeyPatch, wanted: str, node: str, host: str
) -> None:
    started: list[HTTPOptions] = []

    async def start(app: Any, options: HTTPOptions, **settings: Any) -> None:
        started.append(options)

    monkeypatch.setattr(serve_replica, "start_asgi_http_server", None)
    monkeypatch.setattr(http_port, "_start_server", start)
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: node)
    guard_http_ports()
    await serve_replica.start_asgi_http_server(Serve(), HTTPOptions(host=wanted))

    assert started[0].host == host
    assert [middleware.cls for middleware in started[0].middlewares] == [HttpPort]

    await serve_replica.start_asgi_http_server(Serve(), started[0])

    assert len(started[1].middlewares) == 1


def test_serve_puts_the_guard_around_its_own_proxy_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_replica, "start_asgi_http_server", None)
    path = load_serving_environment()["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    place, _, name = path.partition(":")
    middlewares = getattr(importlib.import_module(place), name)()

    assert [middleware.cls for middleware in middlewares] == [HttpPort]


@pytest.mark.parametrize(
    ("port", "node", "host"),
    [
        (RAY_SERVE_FALLBACK_PROXY_HTTP_PORT, "127.0.0.1", "127.0.0.1"),
        (RAY_SERVE_FALLBACK_PROXY_HTTP_PORT, "10.0.0.2", "0.0.0.0"),
        (8000, "127.0.0.1", "0.0.0.0"),
        (None, "127.0.0.1", None),
    ],
    ids=["one machine", "cluster", "HAProxy's own", "without options"],
)
def test_proxy_of_a_single_machine_listens_at_loopback_only(
    monkeypatch: pytest.MonkeyPatch, port: int | None, node: str, host: str | None
) -> None:
    started: list[HTTPOptions] = []
    monkeypatch.setattr(
        http_port, "_start_proxy", lambda self, http_options, **_: started.append(http_options)
    )
    monkeypatch.setattr(ProxyStateManager, "_start_proxy", None)
    path = load_serving_environment()["RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH"]
    place, _, name = path.partition(":")
    getattr(importlib.import_module(place), name)()

    manager = ProxyStateManager.__new__(ProxyStateManager)
    manager._start_proxy(
        name="proxy",
        node_id="n",
        node_ip_address=node,
        http_options=HTTPOptions(host="0.0.0.0", port=port) if port else None,
        grpc_options=None,
        proxy_actor_class=None,
    )

    assert [options and options.host for options in started] == [host]


def test_serve_opens_its_ports_by_the_names_that_are_replaced() -> None:
    assert inspect.getsource(serve_replica).count(" start_asgi_http_server(\n") == 1
    assert "self._start_proxy(\n" in inspect.getsource(
        ProxyStateManager._start_fallback_proxy_if_needed
    )
