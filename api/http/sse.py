"""The only writer of `data: `: a response of server-sent events.

Source: WHATWG HTML §9.2 (event streams); `[DONE]` and the error event are OpenAI's.
Payloads are JSON in ASCII, so that no line break that some client splits at (U+2028, U+0085, …)
can stand in them.
"""

import json
from collections.abc import Iterable

from starlette.types import Send

from api.errors import ApiError

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """An event stream on one response; nothing is sent before the first event."""

    def __init__(
        self, send: Send, unwrapped_send: Send | None = None, headers: dict[str, str] | None = None
    ) -> None:
        """Write to the ASGI `send` of the response.

        Args:
            send: takes the start, which every layer around the application must see.
            raw_send: takes all else, past those layers: each costs as much as rendering a chunk.
            headers: go out with the start, beside those of every event stream.
        """
        own = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
        self._headers = [*_HEADERS, *own]
        self._send = send
        self._raw_send = unwrapped_send or send
        self.is_started = False

    async def write(self, payloads: Iterable[bytes]) -> None:
        """Send events, all of them in one write; nothing if there are none."""
        body = b"".join([b"data: " + payload + b"\n\n" for payload in payloads])
        if body:
            await self._write(body)

    async def write_named(self, name: str, payload: bytes) -> None:
        """Send an event that says what it is outside its payload too."""
        await self._write(b"event: " + name.encode() + b"\ndata: " + payload + b"\n\n")

    async def comment(self, text: str) -> None:
        """Send what clients skip: it keeps the connection from looking idle."""
        await self._write(b": " + text.encode() + b"\n\n")

    async def _write(self, body: bytes) -> None:
        if not self.is_started:
            self.is_started = True
            start = {"type": "http.response.start", "status": 200, "headers": self._headers}
            await self._send(start)
        await self._raw_send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        """Say that the answer is complete."""
        await self.write([b"[DONE]"])
        await self.close()

    async def close(self) -> None:
        """End without a mark: the last event has said that it is the last."""
        await self._raw_send({"type": "http.response.body", "body": b""})

    async def fail(self, error: ApiError) -> None:
        """End with an error event and without `[DONE]`: OpenAI's SDK raises it as `APIError`."""
        await self.write([json.dumps(error.body()).encode()])
        await self.close()
