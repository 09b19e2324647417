"""Responses of server-sent events; the only module that writes `data: `.

Source: WHATWG HTML §9.2 (event streams). Payloads are JSON in ASCII, so they cannot contain a line
break that some clients split at (U+2028, U+0085, …).
"""

from collections.abc import Iterable

from starlette.types import Send

Event = tuple[str | None, bytes]
"""The event's name, None for unnamed events, and its payload."""

COMMENT = ":"
"""Use as an event's name: clients skip comments, but the connection does not look idle."""

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
            send: sends the start of the response, which all middleware must see.
            unwrapped_send: sends the rest without middleware, which costs as much per event as
                rendering a chunk.
            headers: response headers besides those of every event stream.
        """
        own = [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
        self._headers = [*_HEADERS, *own]
        self._send = send
        self._unwrapped_send = unwrapped_send or send
        self.is_started = False

    async def write(self, events: Iterable[Event]) -> None:
        """Send events in one ASGI message; none if there are no events."""
        body = b"".join(
            [
                b"data: " + payload + b"\n\n" if name is None else _encode_named(name, payload)
                for name, payload in events
            ]
        )
        if not body:
            return
        if not self.is_started:
            self.is_started = True
            start = {"type": "http.response.start", "status": 200, "headers": self._headers}
            await self._send(start)
        await self._unwrapped_send({"type": "http.response.body", "body": body, "more_body": True})

    async def close(self) -> None:
        """End the response; the last event has told the client that it is the last."""
        await self._unwrapped_send({"type": "http.response.body", "body": b""})


def _encode_named(name: str, payload: bytes) -> bytes:
    if name == COMMENT:
        return b": " + payload + b"\n\n"
    return b"event: " + name.encode() + b"\ndata: " + payload + b"\n\n"
