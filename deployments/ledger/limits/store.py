"""The port to the store of limits: what each key has reserved and used.

The order for one request is reserve, do the work, `add_quota_usage`, settle: the quotas then count
every token at least once at any moment.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from api.ports.rate_limits import Amounts, LimitExceeded, RateLimitStatus
from api.ports.tenancy import KeyLimits


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one request has taken of its key's limits, as its session knows it."""

    id: str
    key_id: str
    amounts: Amounts


class LimitStore(Protocol):
    """Reserves what requests will use, for all keys.

    A session is a process that reserves; its reservations end with it. Sessions choose the ids of
    their reservations. All methods may raise UnavailableError, and all but `add_quota_usage` may
    be repeated after that.
    """

    async def set_limits(self, limits: Mapping[str, KeyLimits]) -> None:
        """Replace all limits, at once. A key without limits is always granted."""

    async def set_quota_usage(self, usage: Mapping[str, tuple[int, int]]) -> None:
        """Start from recorded usage: key id → tokens of this UTC day and of this month."""

    async def add_quota_usage(self, key_id: str, time_s: float, tokens: int) -> None:
        """Count one more usage record against the quotas.

        Args:
            key_id: whose quotas.
            time_s: Unix time at which the request ended.
            tokens: prompt and completion together.
        """

    async def reserve(
        self, session: str, reservation_id: str, key_id: str, amounts: Amounts
    ) -> RateLimitStatus | LimitExceeded:
        """Take all of the amounts or none. Reserving the same id again takes nothing more."""

    async def settle(self, reservation_id: str, used: Amounts) -> None:
        """End a reservation and count what was used in its place; unknown ids are ignored."""

    async def renew(self, session: str) -> None:
        """Extend the session's lease; call it once a second."""

    async def restore_session(
        self, session: str, reservations: Sequence[Reservation], pending_ids: Collection[str] = ()
    ) -> None:
        """Make the session's reservations match its own list after a reconnect.

        Missing ones are taken even over the limits, because their requests are in flight.

        Args:
            session: the session that has reconnected.
            reservations: all that it holds.
            pending_ids: reservations it still waits for: kept if granted, as it reserves them
                again.
        """

    async def drop_session(self, session: str) -> None:
        """End all reservations of a session. What they took of the minute stays counted."""

    async def flush(self) -> None:
        """Make all changes durable; await it before a client is told of a grant."""

    async def sessions(self) -> list[str]:
        """The sessions with reservations that this process knows."""

    async def stats(self) -> dict[str, int]:
        """Counters of what is in flight, as far as this process knows; all 0 at rest."""
