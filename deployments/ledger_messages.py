"""What replicas and the ledger say to each other, and the connection that carries it.

A frame is its length (four bytes, big-endian) and a list of messages in msgpack. What is said
within one event-loop tick travels in one frame, so that a busy service does not pay per message.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from api.ports.rate_limits import Amounts, Refusal, Standing
from deployments.limits.accounts import Hold
from deployments.records import StoredKey, UsageRecord

_LENGTH_BYTES = 4
_MAX_FRAME_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LedgerAddress:
    """Where the ledger listens, and what a caller must say first."""

    host: str
    port: int
    ticket: bytes


class Hello(msgspec.Struct, tag=True):
    """The first message of a connection: who calls, and what it holds from an earlier one."""

    ticket: bytes
    session: str
    holds: list[Hold]
    asked: list[str]
    """Ids of holds that it has asked for, and that may have been granted."""
    wants_keys: bool


class Reserve(msgspec.Struct, tag=True):
    """A request for a part of a key's limits; the answer is `Granted` or `Refused`."""

    hold_id: str
    key_id: str
    amounts: Amounts


class Settle(msgspec.Struct, tag=True):
    """A hold has ended, and took so much."""

    hold_id: str
    used: Amounts


class Finish(msgspec.Struct, tag=True):
    """A request has ended: its usage, and the hold that it had; answered by `Recorded`."""

    record: UsageRecord
    hold_id: str | None = None
    is_repeated: bool = False
    """It may have been recorded already."""


class Audit(msgspec.Struct, tag=True):
    """Something for the audit log."""

    event: str
    fields: dict[str, Any]


class Granted(msgspec.Struct, tag=True):
    """The hold is the caller's until it settles it or is gone."""

    hold_id: str
    standing: Standing


class Refused(msgspec.Struct, tag=True):
    """The hold would break a limit; None if nobody can say at the moment."""

    hold_id: str
    refusal: Refusal | None


class Recorded(msgspec.Struct, tag=True):
    """The records of these ids will survive whatever happens to the ledger."""

    ids: list[str]


class KeySet(msgspec.Struct, tag=True):
    """All keys, for whoever wants them; `note` says why they may be out of date."""

    keys: list[StoredKey]
    pepper_mark: bytes
    """Shows whether both ends digest keys with the same pepper."""
    note: str | None = None


ToLedger = Hello | Reserve | Settle | Finish | Audit
FromLedger = Granted | Refused | Recorded | KeySet

_encoder = msgspec.msgpack.Encoder()
to_ledger_decoder = msgspec.msgpack.Decoder(list[ToLedger])
from_ledger_decoder = msgspec.msgpack.Decoder(list[FromLedger])


class Connection(asyncio.Protocol):
    """One end of a connection."""

    def __init__(
        self,
        decoder: "msgspec.msgpack.Decoder[Any]",
        take: Callable[["Connection", list[Any]], None],
        on_lost: Callable[["Connection"], None],
    ) -> None:
        """Give what arrives to `take`, and call `on_lost` once."""
        self._decoder = decoder
        self._take = take
        self._on_lost = on_lost
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
