"""HAProxy as Serve would start it, in front of a server that tells what it has received."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.service.environment import free_ports, haproxy_binary
from tests.helpers.service import wait_until

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = "from deployments.haproxy.main import main; main()"
"""What the script `triptych-haproxy` is."""


@dataclass(frozen=True)
class Edge:
    """A running HAProxy."""

    host: str
    port: int
    process: subprocess.Popen[bytes]
    config: Path

    def send(self, data: bytes, timeout_s: float = 5) -> tuple[int, dict[str, str], bytes]:
        """Send bytes; return status, headers and body of the answer. Nothing is status 0."""
        try:
            with self.connect() as client:
                client.settimeout(timeout_s)
                client.sendall(data)
                return read_answer(client)
        except ConnectionResetError:
            return 0, {}, b""

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection((self.host, self.port), 5)

    def get(self, path: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
        """Send a GET."""
        lines = [f"GET {path} HTTP/1.1", "host: x", *headers, "connection: close", "", ""]
        return self.send("\r\n".join(lines).encode("latin-1"))


def read_answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read until the connection is closed; nothing is status 0."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(65_536):
            received += data
    if not received:
        return 0, {}, b""
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body


def render(folder: Path, port: int, backends: list[int], host: str = "127.0.0.1") -> Path:
    """Write the configuration that Serve would write, for backends at these ports."""
    from ray.serve._private.haproxy import (
        BackendConfig,
        HAProxyApi,
        HAProxyConfig,
        HTTPOptions,
        ServerConfig,
    )

    config = HAProxyConfig(
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "server-state"),
        metrics_socket_path=str(folder / "metrics.sock"),
        http_options=HTTPOptions(host=host, port=port),
        nbthread=1,
        maxconn=200,
        has_received_routes=True,
        has_received_servers=True,
    )
    servers = [ServerConfig(f"replica-{port}", "127.0.0.1", port) for port in backends]
    ingress = {"ingress": BackendConfig("ingress", "/", app_name="ingress", servers=servers)}
    api = HAProxyApi(config, ingress if backends else {}, str(folder / "haproxy.cfg"))
    api._generate_config_file_internal()
    return folder / "haproxy.cfg"


@contextlib.contextmanager
def running_edge(
    folder: Path, backends: list[int], host: str = "127.0.0.1", **environment: str
) -> Iterator[Edge]:
    """Run HAProxy in front of these ports."""
    (port,) = free_ports(1)
    config = render(folder, port, backends, host)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "-db", "-f", str(config)],
        cwd=ROOT,
        env={
            **os.environ,
            "TRIPTYCH_HAPROXY": haproxy_binary(),
            **environment,
        },
        stderr=(folder / "errors.txt").open("wb"),
    )
    edge = Edge(host, port, process, config)
    try:
        wait_until(lambda: is_up(edge, folder), timeout_s=10)
        yield edge
    finally:
        process.kill()
        process.wait(10)


def is_up(edge: Edge, folder: Path) -> bool:
    assert edge.process.poll() is None, (folder / "errors.txt").read_text()
    try:
        edge.connect().close()
    except ConnectionRefusedError:
        return False
    return True


async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request with its first line and headers, as JSON."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    body = json.dumps(head.split("\r\n")[:-2]).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body))
    writer.write(body)
    writer.close()


@pytest.fixture(scope="module")
def backend() -> Iterator[int]:
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(tell, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def edge(backend: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with running_edge(tmp_path_factory.mktemp("edge"), [backend]) as edge:
        yield edge
