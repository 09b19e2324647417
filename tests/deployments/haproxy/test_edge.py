"""What HAProxy itself does with requests, before any of our code sees them."""

import json
import socket
import stat
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from api.access.failed_keys import CLIENT_ADDRESS_HEADER
from deployments.haproxy.configuration import UnknownConfigurationError, change
from deployments.haproxy.error_pages import PAGES
from deployments.haproxy.main import read_edge
from tests.deployments.haproxy.conftest import Edge, read_answer, render, running_edge
from tests.helpers.service import wait_until

SLOW_S = 12
"""More than the 10 s in which headers must arrive."""


def received(edge: Edge, path: str, *headers: str) -> list[str]:
    """The first line and the headers that the ingress got."""
    status, _, body = edge.get(path, *headers)
    assert status == 200, body
    lines: list[str] = json.loads(body)
    return lines


def error_of(answer: tuple[int, dict[str, str], bytes]) -> dict[str, Any]:
    """The error's members; every error must have all four."""
    _, headers, body = answer
    assert headers["content-type"] == "application/json"
    error: dict[str, Any] = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1//models", "/v1/models"),
        ("/v1/models/", "/v1/models"),
        ("//v1///models//", "/v1/models"),
        ("/", "/"),
        ("//", "/"),
        ("/v1/models/org/model?a=//", "/v1/models/org/model?a=//"),
    ],
)
def test_slashes_are_normalised_without_a_redirect(edge: Edge, sent: str, arrives: str) -> None:
    assert received(edge, sent)[0] == f"GET {arrives} HTTP/1.1"


@pytest.mark.parametrize(
    "header",
    [
        "serve_multiplexed_model_id: other",
        "serve-multiplexed-model-id: other",
        "x-session-id: \xff",
        "x-request-timeout-seconds: 0.001",
        "X-Request-Disconnect-Disabled: ?1",
        "upgrade: websocket",
    ],
)
def test_orders_to_serve_do_not_arrive(edge: Edge, header: str) -> None:
    name = header.partition(":")[0].lower()

    assert not [line for line in received(edge, "/", header) if line.lower().startswith(name)]


@pytest.mark.parametrize("good", ["a", "req_1/2+3=", "x" * 128])
def test_request_id_that_can_be_logged_arrives(edge: Edge, good: str) -> None:
    assert f"x-request-id: {good}" in received(edge, "/", f"x-request-id: {good}")


@pytest.mark.parametrize("bad", [["x" * 129], ["a b"], ["\xe9"], [""], ["a", "b"]])
def test_request_id_that_cannot_be_logged_does_not_arrive(edge: Edge, bad: list[str]) -> None:
    lines = received(edge, "/", *(f"x-request-id: {value}" for value in bad))

    assert not [line for line in lines if line.lower().startswith("x-request-id")]


def test_routes_of_serve_are_not_told(edge: Edge) -> None:
    answer = edge.get("/-/routes")

    assert answer[0] == 404
    assert error_of(answer)["code"] == "not_found"


def test_request_for_no_path_finds_nothing(edge: Edge) -> None:
    answer = edge.send(b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")

    assert answer[0] == 404
    assert error_of(answer)["code"] == "not_found"


def test_probe_of_the_operator_is_answered(edge: Edge) -> None:
    status, _, body = edge.get("/-/healthz")

    assert (status, body) == (200, b"success")


@pytest.mark.parametrize(
    "request_",
    [
        b"GET health\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nbad header: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"a" * 20_000 + b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    ],
)
def test_request_that_cannot_be_read_is_refused(edge: Edge, request_: bytes) -> None:
    """With HAProxy's own page: what it answers before it has parsed a request cannot be changed."""
    assert edge.send(request_)[0] == 400


@pytest.mark.parametrize("status", PAGES)
def test_page_of_every_status_has_the_form_of_all_other_errors(edge: Edge, status: int) -> None:
    page = (edge.config.parent / "errors" / f"{status}.http").read_bytes()
    head, _, body = page.partition(b"\r\n\r\n")

    assert f"HTTP/1.1 {PAGES[status].status} ".encode() in head
    assert f"content-length: {len(body)}".encode() in head.split(b"\r\n")
    assert json.loads(body) == PAGES[status].body()
    assert (b"retry-after: 1" in head) == (PAGES[status].status == 503)


def test_haproxy_listens_at_its_own_port_only(edge: Edge) -> None:
    (listening,) = (
        each.laddr.port
        for each in psutil.Process(edge.process.pid).net_connections("tcp")
        if each.status == psutil.CONN_LISTEN
    )

    assert listening == edge.port


def test_other_accounts_cannot_give_haproxy_orders(edge: Edge) -> None:
    assert stat.S_IMODE((edge.config.parent / "admin.sock").stat().st_mode) == 0o600


def address_received(edge: Edge, *headers: str) -> list[str]:
    """The client's address as the ingress was told, once for each header that tells it."""
    prefix = f"{CLIENT_ADDRESS_HEADER}: "
    lines = received(edge, "/", *headers)
    return [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]


@pytest.mark.parametrize(
    "header", [f"{CLIENT_ADDRESS_HEADER}: 1.2.3.4", "x-forwarded-for: 1.2.3.4"]
)
def test_client_cannot_choose_its_address(edge: Edge, header: str) -> None:
    assert address_received(edge, header) == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("proxies", "headers", "address"),
    [
        (1, ["x-forwarded-for: 1.1.1.1"], "1.1.1.1"),
        (1, ["x-forwarded-for: 9.9.9.9, 1.1.1.1"], "1.1.1.1"),
        (1, ["x-forwarded-for: 9.9.9.9", "x-forwarded-for: 1.1.1.1"], "1.1.1.1"),
        (1, [f"{CLIENT_ADDRESS_HEADER}: 9.9.9.9"], "127.0.0.1"),
        (2, ["x-forwarded-for: 9.9.9.9, 1.1.1.1, 2.2.2.2"], "1.1.1.1"),
        (2, ["x-forwarded-for: 2.2.2.2"], "127.0.0.1"),
    ],
)
def test_trusted_proxies_tell_the_clients_address(
    backend: int, tmp_path: Path, proxies: int, headers: list[str], address: str
) -> None:
    with running_edge(tmp_path, [backend], TRIPTYCH_TRUSTED_PROXIES=str(proxies)) as edge:
        assert address_received(edge, *headers) == [address]


def test_headers_that_do_not_arrive_end_the_connection(edge: Edge) -> None:
    with edge.connect() as slow, edge.connect() as idle:
        slow.settimeout(SLOW_S)
        slow.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n")
        began_s = time.monotonic()
        answer = read_answer(slow)
        took_s = time.monotonic() - began_s
        idle.settimeout(SLOW_S)
        status_of_idle = read_answer(idle)[0]

    assert answer[0] == 408
    assert 9 < took_s < SLOW_S
    assert status_of_idle in (0, 408)


@pytest.mark.parametrize("backends", [[], [1]])
def test_service_without_a_replica_says_to_try_again(tmp_path: Path, backends: list[int]) -> None:
    with running_edge(tmp_path, backends) as edge:
        answer = edge.get("/v1/models")

    assert answer[0] == 503
    assert answer[1]["retry-after"] == "1"
    assert error_of(answer)["code"] == "server_is_overloaded"


MOST = {"TRIPTYCH_MAX_CONNECTIONS_PER_ADDRESS": "3"}


def test_connections_of_this_machine_are_not_counted(backend: int, tmp_path: Path) -> None:
    with running_edge(tmp_path, [backend], **MOST) as edge, ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(edge.connect())

        assert edge.get("/")[0] == 200


def test_connections_of_one_address_beyond_the_limit_are_closed(
    backend: int, tmp_path: Path
) -> None:
    address = find_own_address()
    with running_edge(tmp_path, [backend], address, **MOST) as edge, ExitStack() as stack:
        held = [hold(edge, stack) for _ in range(6)]
        assert held.count(True) <= 3
        assert edge.get("/")[0] == 0
        stack.close()

        wait_until(lambda: edge.get("/")[0] == 200, timeout_s=10)


def hold(edge: Edge, stack: ExitStack) -> bool:
    """Open a connection and keep it, if it is answered; returns whether it is."""
    try:
        client = stack.enter_context(edge.connect())
        client.settimeout(5)
        client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        return client.recv(65_536).startswith(b"HTTP/1.1 200")
    except ConnectionResetError:
        return False


def find_own_address() -> str:
    """An address of this machine that is not the loopback address."""
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family == socket.AF_INET and not each.address.startswith("127."):
                return str(each.address)
    pytest.skip("this machine has a loopback address only")


@pytest.mark.parametrize(
    "environment",
    [{"TRIPTYCH_MAX_CONNECTIONS_PER_ADDRESS": "0"}, {"TRIPTYCH_TRUSTED_PROXIES": "1"}],
)
def test_limit_of_connections_can_be_switched_off(
    backend: int, tmp_path: Path, environment: dict[str, str]
) -> None:
    with running_edge(tmp_path, [backend], **environment) as edge:
        assert "sc0_conn_cur" not in edge.config.read_text()


@pytest.mark.parametrize(("files", "connections"), [(300, 100), (500, 200), (None, 200)])
def test_no_more_clients_are_let_in_than_the_hard_limit_of_files_allows(
    tmp_path: Path, files: int | None, connections: int
) -> None:
    edge = replace(read_edge(tmp_path, {}), most_files=files)

    assert f"maxconn {connections}\n" in change(render(tmp_path, 1, []).read_text(), edge)


def test_requests_are_not_spliced(edge: Edge) -> None:
    assert "splice" not in edge.config.read_text()


def test_changing_twice_is_changing_once(edge: Edge) -> None:
    text = edge.config.read_text()

    assert change(text, read_edge(edge.config.parent, {})) == text


def test_unknown_configuration_is_refused(tmp_path: Path, edge: Edge) -> None:
    text = render(tmp_path, 1, []).read_text().replace("frontend http_frontend", "frontend x")

    with pytest.raises(UnknownConfigurationError, match="http_frontend"):
        change(text, read_edge(tmp_path, {}))
