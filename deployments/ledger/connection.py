"""One end of a connection to the ledger: length-prefixed MessagePack frames over TCP."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

from deployments.ledger.protocol import FromLedger, ToLedger

_LENGTH_BYTES = 4
_MAX_FRAME_BYTES = 64 * 1024 * 1024
_encoder = msgspec.msgpack.Encoder()


class Connection(asyncio.Protocol):
    """One end of a connection."""

    def __init__(
        self,
        decoder: "msgspec.msgpack.Decoder[Any]",
        take: Callable[["Connection", list[Any]], None],
        on_disconnect: Callable[["Connection"], None],
    ) -> None:
        """Give what arrives to `take`, and call `on_disconnect` once."""
        self._decoder = decoder
        self._take = take
        self._on_lost = on_disconnect
        self._buffer = bytearray()
        self._outgoing: list[Any] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def send(self, message: ToLedger | FromLedger) -> None:
        """Send with the others of this tick; never blocks, and says nothing if nobody is there."""
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(message)

    def _flush(self) -> None:
        messages, self._outgoing = self._outgoing, []
        if self._transport is not None and not self._transport.is_closing():
            payload = _encoder.encode(messages)
            self._transport.write(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio. Whoever sends what is not a frame of ours is cut off."""
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
            self._take(self, messages)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._on_lost(self)

    def close(self) -> None:
        """End it; what has been said in this tick may be lost."""
        if self._transport is not None:
            self._transport.abort()
