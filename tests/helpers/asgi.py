"""Drives an ASGI application message by message.

httpx's ASGITransport joins the body before it returns it and never disconnects, so it shows neither
the boundaries of chunks nor the effect of a disconnect.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

TIMEOUT_S = 5.0
"""Longer than any step of a test takes, unless the application hangs."""

ERROR_KEYS = {"message", "type", "param", "code"}


@dataclass(slots=True)
class Response:
    """What the application has sent so far."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        """By lower-case name; a repeated header is an error, because the dict would lose it."""
        pairs = [(name.decode(), value.decode()) for name, value in self.messages[0]["headers"]]
        headers = dict(pairs)
        assert len(headers) == len(pairs), f"repeated header in {pairs}"
        return headers

    @property
    def chunks(self) -> list[bytes]:
        """The bodies of the messages, one per send, without the empty one that ends a stream."""
        return [message["body"] for message in self.messages[1:] if message["body"]]

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def is_ended(self) -> bool:
        return len(self.messages) > 1 and not self.messages[-1].get("more_body", False)

    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        assert self.headers["content-length"] == str(len(self.body))
        return json.loads(self.body)

    def error(self) -> tuple[int, str, str | None]:
        """Check that the response is an error in OpenAI's format; return status, code, param."""
        value = self.json()
        assert value.keys() == {"error"}
        check_error(value["error"])
        assert self.headers["x-request-id"]
        return self.status, value["error"]["code"], value["error"]["param"]

    def message(self) -> str:
        """Return the message of an error."""
        self.error()
        return str(self.json()["error"]["message"])

    def events(self) -> list[Any]:
        """Decode the payloads of an event stream; `[DONE]` stays a string."""
        return [payload for chunk in self.chunks for payload in read_events(chunk)]


def check_error(error: Mapping[str, Any]) -> None:
    """Check that an error has exactly the four keys of OpenAI's format, and their types."""
    assert error.keys() == ERROR_KEYS
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert isinstance(error["code"], str)
    assert isinstance(error["param"], str | None)


def read_events(chunk: bytes) -> list[Any]:
    """Decode events as the strictest client does: each is one `data: ` line and a blank line."""
    text = chunk.decode("ascii")
    assert text.endswith("\n\n")
    events = text.removesuffix("\n\n").split("\n\n")
    payloads = [event.removeprefix("data: ") for event in events]
    assert [f"data: {payload}" for payload in payloads] == events
    assert not any("\n" in payload or "\r" in payload for payload in payloads)
    return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]


class Exchange:
    """One request under way: an async context manager around the call of the application.

    The end of the block waits for the application, and raises the exception that would reach the
    server.
    """

    def __init__(
        self,
        app: ASGIApp,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        chunks: Sequence[bytes] | None = (),
    ) -> None:
        """Prepare a request.

        Args:
            app: the application.
            method: the HTTP method.
            path: the path and query string, as a client sends them.
            headers: the request headers.
            chunks: the body; None leaves it to calls of `send_chunk`.
        """
        self._app = app
        self._scope = to_scope(method, path, headers or {})
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._outgoing = asyncio.Condition()
        self.response = Response()
        if chunks is not None:
            bodies = list(chunks) or [b""]
            for chunk in bodies[:-1]:
                self.send_chunk(chunk, more=True)
            self.send_chunk(bodies[-1])

    def send_chunk(self, chunk: bytes, *, more: bool = False) -> None:
        """Send a chunk of the body; `more` announces further chunks."""
        self._incoming.put_nowait({"type": "http.request", "body": chunk, "more_body": more})

    def disconnect(self) -> None:
        """Close the connection, as a client does."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def sent(self, count: int) -> list[Message]:
        """Wait until the application has sent `count` messages, and return all of them."""
        async with asyncio.timeout(TIMEOUT_S), self._outgoing:
            await self._outgoing.wait_for(lambda: len(self.response.messages) >= count)
        return self.response.messages

    async def end(self) -> Response:
        """Wait until the application has returned, and return the response."""
        async with asyncio.timeout(TIMEOUT_S):
            await self._running
        return self.response

    async def __aenter__(self) -> "Exchange":
        self._running = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.end()
        else:
            self._running.cancel()
            await asyncio.wait({self._running})

    async def _run(self) -> None:
        await self._app(self._scope, self._incoming.get, self._send)

    async def _send(self, message: Message) -> None:
        async with self._outgoing:
            self.response.messages.append(message)
            self._outgoing.notify_all()


async def request(
    app: ASGIApp,
    method: str,
    path: str,
    *,
    json_body: Any = None,
    chunks: Iterable[bytes] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Send a request and return the response; `json_body` is sent with its media type."""
    if json_body is not None:
        chunks = [json.dumps(json_body).encode()]
        headers = {"content-type": "application/json", **(headers or {})}
    async with Exchange(app, method, path, headers=headers, chunks=list(chunks)) as exchange:
        return await exchange.end()


def post(app: ASGIApp, path: str, json_body: Any) -> Exchange:
    """Prepare a POST of JSON, to be driven step by step."""
    body = json.dumps(json_body).encode()
    return Exchange(app, "POST", path, headers={"content-type": "application/json"}, chunks=[body])


def to_scope(method: str, path: str, headers: Mapping[str, str]) -> Scope:
    """Build the scope as uvicorn does: with the raw path as sent, and the decoded path."""
    raw_path, _, query = path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in headers.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
