"""One end of a connection to the ledger: length-prefixed MessagePack frames over TCP.

A frame is its length (four bytes, big-endian) and a list of messages. Messages of one event-loop
iteration share a frame, so the cost of a write does not grow with the number of requests.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

from deployments.ledger.protocol import FromLedger, ToLedger

_LENGTH_BYTES = 4
_MAX_MESSAGES = 1000
"""In one frame: a ledger that comes back is told 100,000 records at once."""
_MAX_UNREAD_BYTES = 64 * 1024 * 1024
_FRAME_TIMEOUT_S = 10.0

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""What a client takes from the ledger: all keys are one message."""

_encoder = msgspec.msgpack.Encoder()


class Connection(asyncio.Protocol):
    """Sends and receives messages.

    A peer is disconnected if it sends an invalid frame, takes too long with one, or does not read.
    """

    def __init__(
        self,
        decoder: "msgspec.msgpack.Decoder[Any]",
        on_messages: Callable[["Connection", list[Any]], None],
        on_disconnect: Callable[["Connection"], None],
        *,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        frame_timeout_s: float = _FRAME_TIMEOUT_S,
    ) -> None:
        """Decode frames with `decoder`.

        Args:
            decoder: for the list of messages in a frame.
            on_messages: called with the messages of each frame.
            on_disconnect: called once.
            max_frame_bytes: most bytes of a frame from the peer.
            frame_timeout_s: most time from the first byte of a frame to the last.
        """
        self._decoder = decoder
        self._on_messages = on_messages
        self._on_disconnect = on_disconnect
        self._max_frame_bytes = max_frame_bytes
        self._frame_timeout_s = frame_timeout_s
        self._frame_timer: asyncio.TimerHandle | None = None
        self._buffer = bytearray()
        self._outgoing: list[Any] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._transport.set_write_buffer_limits(high=_MAX_UNREAD_BYTES)

    def pause_writing(self) -> None:
        """Called by asyncio when the peer has not read for too long."""
        self.close()

    def send_token(self, token: bytes) -> None:
        """Send what a client must say first; see `gate.py`."""
        if self._transport is not None:
            self._transport.write(token)

    def send(self, message: ToLedger | FromLedger) -> None:
        """Queue a message for this iteration's frame; dropped if the connection is lost."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(message)

    def _flush(self) -> None:
        messages, self._outgoing = self._outgoing, []
        for start in range(0, len(messages), _MAX_MESSAGES):
            if self._transport is None or self._transport.is_closing():
                return
            payload = _encoder.encode(messages[start : start + _MAX_MESSAGES])
            self._transport.write(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._buffer += data
        while (payload := self._take_payload()) is not None:
            self._stop_timer()
            try:
                messages = self._decoder.decode(payload)
            except (msgspec.MsgspecError, RecursionError):
                self.close()
                return
            self._on_messages(self, messages)
        if self._buffer and self._frame_timer is None:
            loop = asyncio.get_running_loop()
            self._frame_timer = loop.call_later(self._frame_timeout_s, self.close)

    def _take_payload(self) -> bytes | None:
        """Take the next frame out of the buffer; None if it is not whole, or too large."""
        if len(self._buffer) < _LENGTH_BYTES:
            return None
        end = _LENGTH_BYTES + int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
        if end > self._max_frame_bytes:
            self._buffer.clear()
            self.close()
            return None
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[_LENGTH_BYTES:end])
        del self._buffer[:end]
        return payload

    def _stop_timer(self) -> None:
        if self._frame_timer is not None:
            self._frame_timer.cancel()
            self._frame_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._stop_timer()
        self._on_disconnect(self)

    def close(self) -> None:
        """Close the connection; messages queued in this iteration may be lost."""
        if self._transport is not None:
            self._transport.abort()
