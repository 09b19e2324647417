"""Sends responses of server-sent events; the only module that writes `data: `.

Payloads are JSON in ASCII, because some clients split events at non-ASCII line breaks (U+2028,
U+0085, …).

Source: WHATWG HTML §9.2 (event streams).
"""

from collections.abc import Awaitable, Iterable

from starlette.types import Send

from api.http.run_now import run_now

Event = tuple[str | None, bytes]
"""The event's name or None, and its payload."""

COMMENT = ":"
"""As an event's name: a comment, which clients skip, and which keeps the connection from idling."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """One response of events; the response starts with the first event."""

    def __init__(
        self, send: Send, unwrapped_send: Send | None = None, headers: dict[str, str] | None = None
    ) -> None:
        """Prepare the response.

        Args:
            send: sends the start of the response, which all middleware must see.
            unwrapped_send: sends the rest without middleware, which would cost as much per event
                as rendering a chunk.
            headers: additional response headers.
        """
        items = (headers or {}).items()
        added = [(name.encode(), value.encode("latin-1")) for name, value in items]
        self._headers = [*_HEADERS, *added]
        self._send = send
        self._unwrapped_send = unwrapped_send or send
        self.is_started = False

    def push(self, events: Iterable[Event]) -> Awaitable[None] | None:
        """Send events as `write` does, outside a task.

        Returns:
            What must be awaited before the next event, because the client reads slowly; or None.
        """
        return run_now(self.write(events))

    async def write(self, events: Iterable[Event], *, is_last: bool = False) -> None:
        """Send all events in one ASGI message; without events, send nothing.

        Args:
            events: what to send.
            is_last: end the response; the events must tell the client that the stream is complete.
        """
        body = b"".join(
            [
                b"data: " + payload + b"\n\n" if name is None else _encode_named(name, payload)
                for name, payload in events
            ]
        )
        if not body and not is_last:
            return
        if not self.is_started:
            self.is_started = True
            start = {"type": "http.response.start", "status": 200, "headers": self._headers}
            await self._send(start)
        message = {"type": "http.response.body", "body": body, "more_body": not is_last}
        await self._unwrapped_send(message)


def _encode_named(name: str, payload: bytes) -> bytes:
    if name == COMMENT:
        return b": " + payload + b"\n\n"
    return b"event: " + name.encode() + b"\ndata: " + payload + b"\n\n"
