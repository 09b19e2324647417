"""The messages between replicas and the ledger; `connection.py` carries them."""

from typing import Any

import msgspec

from api.ports.rate_limits import Amounts, LimitExceeded, RateLimitStatus
from deployments.ledger.limits.store import Reservation
from deployments.ledger.records import StoredKey, UsageRecord


class Hello(msgspec.Struct, tag=True):
    """The first message of a connection: the client's session and its open reservations."""

    session: str
    reservations: list[Reservation]
    pending_ids: list[str]
    """Reservations without an answer yet; an earlier ledger may have granted them."""
    wants_keys: bool
    wants_details: bool


class Reserve(msgspec.Struct, tag=True):
    """A request for a part of a key's limits; answered by `Granted` or `Refused`."""

    reservation_id: str
    key_id: str
    amounts: Amounts


class Settle(msgspec.Struct, tag=True):
    """The end of a reservation, and what was used of it."""

    reservation_id: str
    used: Amounts


class Finish(msgspec.Struct, tag=True):
    """The usage of a request that has ended, and its reservation; answered by `Recorded`."""

    record: UsageRecord
    reservation_id: str | None = None
    is_repeated: bool = False
    """The record may be in the database already."""


class Audit(msgspec.Struct, tag=True):
    """An event for the audit log."""

    event: str
    fields: dict[str, Any]


class Granted(msgspec.Struct, tag=True):
    """The reservation lasts until it is settled or the session ends."""

    reservation_id: str
    status: RateLimitStatus


class Refused(msgspec.Struct, tag=True):
    """The reservation would exceed a limit; None if the limits cannot be checked at the moment."""

    reservation_id: str
    exceeded: LimitExceeded | None


class Recorded(msgspec.Struct, tag=True):
    """The records of these ids are in the database."""

    ids: list[str]


class KeySet(msgspec.Struct, tag=True):
    """All keys, for the clients that want them."""

    keys: list[StoredKey]
    pepper_fingerprint: bytes
    """Tells the client whether it digests keys with the same pepper."""
    note: str | None = None
    """Why the keys may be out of date."""


class ServeDetails(msgspec.Struct, tag=True):
    """What Serve runs, for the clients that want it; sent whenever the ledger has looked."""

    packed: bytes | None
    """As `deployments.discovery.pack_details` makes it; None if it is as before."""


ToLedger = Hello | Reserve | Settle | Finish | Audit
FromLedger = Granted | Refused | Recorded | KeySet | ServeDetails

to_ledger_decoder = msgspec.msgpack.Decoder(list[ToLedger])
from_ledger_decoder = msgspec.msgpack.Decoder(list[FromLedger])
