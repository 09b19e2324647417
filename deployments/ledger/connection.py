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
_MAX_FRAME_BYTES = 64 * 1024 * 1024
_encoder = msgspec.msgpack.Encoder()


class Connection(asyncio.Protocol):
    """Sends and receives messages. A peer that sends an invalid frame is disconnected."""

    def __init__(
        self,
        decoder: "msgspec.msgpack.Decoder[Any]",
        on_messages: Callable[["Connection", list[Any]], None],
        on_disconnect: Callable[["Connection"], None],
    ) -> None:
        """Decode frames with `decoder`.

        Args:
            decoder: for the list of messages in a frame.
            on_messages: called with the messages of each frame.
            on_disconnect: called once.
        """
        self._decoder = decoder
        self._on_messages = on_messages
        self._on_disconnect = on_disconnect
        self._buffer = bytearray()
        self._outgoing: list[Any] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def send(self, message: ToLedger | FromLedger) -> None:
        """Queue a message for this iteration's frame; dropped if the connection is lost."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(message)

    def _flush(self) -> None:
        messages, self._outgoing = self._outgoing, []
        if self._transport is not None and not self._transport.is_closing():
            payload = _encoder.encode(messages)
            self._transport.write(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._buffer[:_LENGTH_BYTES], "big")
            if end > _MAX_FRAME_BYTES:
                self.close()
                return
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[_LENGTH_BYTES:end])
            del self._buffer[:end]
            try:
                messages = self._decoder.decode(payload)
            except msgspec.MsgspecError:
                self.close()
                return
            self._on_messages(self, messages)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._on_disconnect(self)

    def close(self) -> None:
        """Close the connection; messages queued in this iteration may be lost."""
        if self._transport is not None:
            self._transport.abort()
