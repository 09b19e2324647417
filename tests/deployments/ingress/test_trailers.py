"""Trailers of chunked requests, at a real uvicorn."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse
from uvicorn.protocols.http import httptools_impl

from deployments.ingress import trailers


async def tell(scope, receive, send) -> None:
    """Answer with the request's headers, and with its body."""
    request = Request(scope, receive)
    body = (await request.body()).decode()
    headers = [[name.decode(), value.decode()] for name, value in scope["headers"]]
    await JSONResponse({"headers": headers, "body": body})(scope, receive, send)


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    protocol = httptools_impl.HttpToolsProtocol
    monkeypatch.setattr(protocol, "on_headers_complete", protocol.on_headers_complete)
    trailers.ignore_trailers()
    config = uvicorn.Config(tell, http="httptools", lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))  # clients wait in it until the server is up
    serving = asyncio.create_task(server.serve([listener]))
    yield listener.getsockname()[1]
    server.should_exit = True
    await serving


async def post(port: int, *parts: bytes) -> tuple[dict[str, str], str]:
    """Send a chunked request in parts; return the headers and the body that arrived."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n"
    for part in (head, *parts):
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0)
    answer = await reader.read()
    writer.close()
    arrived = json.loads(answer.partition(b"\r\n\r\n")[2])
    return dict(arrived["headers"]), arrived["body"]


@pytest.mark.parametrize(
    "parts",
    [
        [b"a: b\r\n\r\n3\r\nabc\r\n0\r\nauthorization: Bearer x\r\n\r\n"],
        [b"a: b\r\n\r\n", b"3\r\nabc\r\n", b"0\r\nauthorization: Bearer x\r\n\r\n"],
    ],
)
async def test_trailers_do_not_become_headers(port: int, parts: list[bytes]) -> None:
    headers, body = await post(port, *parts)

    assert "authorization" not in headers
    assert headers["a"] == "b"
    assert body == "abc"


async def test_trailer_does_not_replace_a_header(port: int) -> None:
    parts = [b"authorization: Bearer good\r\n\r\n0\r\nauthorization: Bearer bad\r\n\r\n"]
    headers, _ = await post(port, *parts)

    assert headers["authorization"] == "Bearer good"


async def test_next_request_of_a_connection_has_its_headers(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for name in ("first", "second"):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nname: %s\r\n\r\n" % name.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        arrived = json.loads(await reader.readexactly(length))
        assert ["name", name] in arrived["headers"]
    writer.close()
