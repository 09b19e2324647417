"""What replicas and the ledger say to each other, and the connection that carries it.

A frame is its length (four bytes, big-endian) and a list of messages in msgpack. What is said
within one event-loop tick travels in one frame, so that a busy service does not pay per message.
"""

from typing import Any

import msgspec

from api.ports.rate_limits import Amounts, LimitExceeded, RateLimitStatus
from deployments.ledger.limits.accounts import Reservation
from deployments.ledger.records import StoredKey, UsageRecord


class Hello(msgspec.Struct, tag=True):
    """The first message of a connection: who calls, and what it holds from an earlier one."""

    auth_token: bytes
    session: str
    holds: list[Reservation]
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
    standing: RateLimitStatus


class Refused(msgspec.Struct, tag=True):
    """The hold would break a limit; None if nobody can say at the moment."""

    hold_id: str
    refusal: LimitExceeded | None


class Recorded(msgspec.Struct, tag=True):
    """The records of these ids will survive whatever happens to the ledger."""

    ids: list[str]


class KeySet(msgspec.Struct, tag=True):
    """All keys, for whoever wants them; `note` says why they may be out of date."""

    keys: list[StoredKey]
    pepper_fingerprint: bytes
    """Shows whether both ends digest keys with the same pepper."""
    note: str | None = None


ToLedger = Hello | Reserve | Settle | Finish | Audit
FromLedger = Granted | Refused | Recorded | KeySet

to_ledger_decoder = msgspec.msgpack.Decoder(list[ToLedger])
from_ledger_decoder = msgspec.msgpack.Decoder(list[FromLedger])
