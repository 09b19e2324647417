"""Raw bytes at a real uvicorn, as an ingress replica runs it: it answers, and it lives on."""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import Iterator
from itertools import pairwise

import pytest
import uvicorn
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deployments.ingress import trailers
from tests.fuzz.application import Application
from tests.helpers.asgi import TIMEOUT_S, check_error
from tests.helpers.fakes import ENCODER, LLM, SECRET
from tests.helpers.fuzzing import Fuzzer

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")

PLAIN_OF_UVICORN = b"Invalid HTTP request received."
"""uvicorn's own answer to what is no HTTP. HAProxy in front of it answers such requests itself."""

BODIES = [
    b"",
    b"{}",
    json.dumps({"model": LLM, "prompt": "Hi"}).encode(),
    json.dumps({"model": LLM, "prompt": "Hi", "stream": True}).encode(),
    json.dumps({"model": ENCODER, "input": "Hi"}).encode(),
    b"x" * 70_000,
]
TARGETS = [
    "/v1/completions",
    "/v1/embeddings",
    "/v1/models",
    "/health",
    "/",
    "*",
    "http://x/v1/models",
    "x:443",
    "/v1/%",
    "/v1/%ff%00",
    "/v1/models?%",
    "/" + "a" * 9000,
    "//",
    "",
]
LINES = [
    f"authorization: Bearer {SECRET}",
    f"Authorization: Bearer {SECRET}",
    "authorization: Bearer \xff",
    "content-type: application/json",
    "content-type: multipart/form-data; boundary=b",
    "content-encoding: gzip",
    "expect: 100-continue",
    "connection: close",
    "connection: upgrade",
    "upgrade: websocket",
    "upgrade: h2c",
    "sec-websocket-key: eA==",
    "sec-websocket-version: 13",
    "content-length: 0",
    "content-length: -1",
    "content-length: 99999999999999999999",
    "content-length: 3, 4",
    "transfer-encoding: chunked",
    "transfer-encoding: gzip, chunked",
    "transfer-encoding: identity",
    "x-request-id: \xe9",
    "x-request-timeout: nan",
    " folded",
    "no colon",
    ": no name",
    "host: x",
    "x: " + "y" * 9000,
    "",
]
METHODS = ["GET", "POST", "POST", "POST", "HEAD", "OPTIONS", "CONNECT", "PRI", "get", "", "A" * 300]
VERSIONS = ["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "HTTP/1.1 ", "", "JUNK"]

GOOD_HEAD = ["host: x", f"authorization: Bearer {SECRET}", "content-type: application/json"]


def to_request(first: tuple[str, str, str], lines: list[str], body: bytes, framing: str) -> bytes:
    if framing == "length":
        lines = [*lines, f"content-length: {len(body)}"]
    elif framing == "chunked":
        lines = [*lines, "transfer-encoding: chunked"]
        end = b"0\r\nx-trailer: y\r\n\r\n"
        body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + end
    head = "\r\n".join([" ".join(first), *lines, "", ""])
    return head.encode("latin-1") + body


FRAMINGS = st.sampled_from(["length", "length", "chunked", "none"])
GOOD = st.builds(
    to_request,
    st.tuples(st.just("POST"), st.sampled_from(TARGETS[:2]), st.just("HTTP/1.1")),
    st.just(GOOD_HEAD),
    st.sampled_from(BODIES),
    FRAMINGS,
)
ODD = st.builds(
    to_request,
    st.tuples(st.sampled_from(METHODS), st.sampled_from(TARGETS), st.sampled_from(VERSIONS)),
    st.lists(st.sampled_from(LINES), max_size=6).map(lambda lines: ["host: x", *lines]),
    st.sampled_from(BODIES),
    FRAMINGS,
)
DAMAGED = st.builds(
    lambda request, at, length, junk: request[:at] + junk + request[at + length :],
    GOOD | ODD,
    st.integers(0, 300),
    st.integers(0, 30),
    st.binary(max_size=6),
)
SENT = st.tuples(
    st.lists(GOOD | ODD | DAMAGED, min_size=1, max_size=3).map(b"".join),
    st.lists(st.integers(0, 400), max_size=3),
)


class RawServer:
    """The application in uvicorn, and connections to it on the same event loop."""

    def __init__(self, application: Application) -> None:
        self._run = application.runner.run
        config = uvicorn.Config(
            application.app, http="httptools", lifespan="off", log_level="critical"
        )
        self._server = uvicorn.Server(config)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self._serving = self._run(self._start(listener))

    async def _start(self, listener: socket.socket) -> asyncio.Task[None]:
        return asyncio.create_task(self._server.serve([listener]))

    def stop(self) -> None:
        self._server.should_exit = True
        self._run(self._wait())

    async def _wait(self) -> None:
        await self._serving

    def send(self, parts: list[bytes]) -> bytes:
        """Send parts of a request, end the sending side, and return all that comes back."""
        return self._run(self._send(parts))

    async def _send(self, parts: list[bytes]) -> bytes:
        before = asyncio.all_tasks()
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            answer = bytearray()
            with contextlib.suppress(OSError):
                for part in parts:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
                writer.write_eof()
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    answer += data
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            if left := asyncio.all_tasks() - before:  # no request outlives its connection
                await asyncio.wait(left)
        return bytes(answer)


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    original = HttpToolsProtocol.on_headers_complete
    monkeypatch.setattr(HttpToolsProtocol, "on_headers_complete", original)
    trailers.ignore_trailers()
    application = Application()
    yield application
    application.close()


@pytest.fixture
def server(application: Application) -> Iterator[RawServer]:
    server = RawServer(application)
    yield server
    server.stop()


_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n")
_JSON_ERROR = re.compile(rb'\{"error":\{.*?\}\}')


def check_answer(answer: bytes) -> None:
    """Check that there is no 5xx, and that errors are ours or say that this was no HTTP."""
    statuses = [int(status) for status in _STATUS_LINE.findall(answer)]
    assert [status for status in statuses if status >= 500] == []
    assert not answer or answer.startswith(b"HTTP/1.1 ")
    for error in _JSON_ERROR.findall(answer):
        check_error(json.loads(error)["error"])
    is_refused = any(status >= 400 for status in statuses)
    assert (
        not is_refused
        or _JSON_ERROR.search(answer)
        or PLAIN_OF_UVICORN in answer
        or (
            b"content-type: application/json" in answer  # an answer to HEAD has no body
        )
    )


def test_bytes_of_any_kind_get_an_answer_or_a_closed_connection(
    server: RawServer, application: Application, fuzzer: Fuzzer
) -> None:
    statuses: set[bytes] = set()

    def send(sent: tuple[bytes, list[int]]) -> None:
        data, cuts = sent
        places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
        answer = server.send([data[begin:end] for begin, end in pairwise(places)])
        check_answer(answer)
        statuses.update(_STATUS_LINE.findall(answer))
        assert all(len(released) == 1 for released in application.limiter.released)

    fuzzer.run(SENT, send, count=400)

    assert {b"200", b"400", b"401"} <= statuses
    health = server.send([b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"])
    assert health.startswith(b"HTTP/1.1 200 ")
