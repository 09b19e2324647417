"""The port to where accounts are kept, and the one in this process.

Reserve, work, spend, settle: in this order the quotas never miss anything.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from api.ports.rate_limits import Amounts, LimitExceeded, RateLimitStatus
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits.accounts import Accounts, Reservation
from deployments.ledger.limits.sqlite_state import SqliteState


class LimitStore(Protocol):
    """Reserves what requests will use, for all keys.

    A session is a process that reserves; its holds live no longer than it does. All may
    raise UnavailableError, and may be repeated then, but for `spend`.
    """

    async def set_limits(self, limits: Mapping[str, KeyLimits]) -> None:
        """Replace all limits; they hold at once. A key without any is always granted."""

    async def set_spent(self, spent: Mapping[str, tuple[int, int]]) -> None:
        """Begin with the tokens that each key has used this UTC day and month."""

    async def spend(self, key_id: str, time_s: float, tokens: int) -> None:
        """Count one more usage record against the quotas."""

    async def reserve(
        self, session: str, hold_id: str, key_id: str, amounts: Amounts
    ) -> RateLimitStatus | LimitExceeded:
        """Take all of the amounts or nothing; what is held already is not taken twice."""

    async def settle(self, hold_id: str, used: Amounts) -> None:
        """End a hold and count what was used; a hold that is not known is none of ours."""

    async def standing(self, key_id: str) -> RateLimitStatus:
        """How the key's limits stand."""

    async def renew(self, session: str) -> None:
        """The session is alive; to be said every second."""

    async def restore_session(
        self, session: str, holds: Sequence[Reservation], asked: Collection[str] = ()
    ) -> None:
        """The session is back: these are all of its holds, but for what it will ask for again."""

    async def drop_session(self, session: str) -> None:
        """The session is gone, and with it its holds; what it took of the minute stays taken."""

    async def flush(self) -> None:
        """Make it last; to be awaited before anyone is told what was granted."""

    async def sessions(self) -> list[str]:
        """Those that have holds, as far as this process knows."""

    async def stats(self) -> dict[str, int]:
        """What is under way, as far as this process knows; all zero when nothing is."""

    async def close(self) -> None:
        """Let go of files and connections."""


class LocalStore:
    """Accounts of this process alone: the default, where one ledger serves all.

    Args:
        accounts: theirs.
        state: of the accounts; without, they end with this process.
    """

    def __init__(self, accounts: Accounts, state: SqliteState | None = None) -> None:
        self._accounts = accounts
        self._state = state

    async def set_limits(self, limits: Mapping[str, KeyLimits]) -> None:
        """See LimitStore."""
        self._accounts.set_limits(limits)

    async def set_spent(self, spent: Mapping[str, tuple[int, int]]) -> None:
        """See LimitStore."""
        self._accounts.set_spent(spent)

    async def spend(self, key_id: str, time_s: float, tokens: int) -> None:
        """See LimitStore."""
        self._accounts.spend(key_id, time_s, tokens)

    async def reserve(
        self, session: str, hold_id: str, key_id: str, amounts: Amounts
    ) -> RateLimitStatus | LimitExceeded:
        """See LimitStore."""
        return self._accounts.reserve(session, hold_id, key_id, amounts)

    async def settle(self, hold_id: str, used: Amounts) -> None:
        """See LimitStore."""
        self._accounts.settle(hold_id, used)

    async def standing(self, key_id: str) -> RateLimitStatus:
        """See LimitStore."""
        return self._accounts.standing(key_id)

    async def renew(self, session: str) -> None:
        """Nothing lapses here: the ledger sees when a session's connection ends."""

    async def restore_session(
        self, session: str, holds: Sequence[Reservation], asked: Collection[str] = ()
    ) -> None:
        """See LimitStore."""
        self._accounts.restore_session(session, holds, asked)

    async def drop_session(self, session: str) -> None:
        """See LimitStore."""
        self._accounts.drop_session(session)

    async def flush(self) -> None:
        """See LimitStore."""
        self._accounts.tidy()
        if self._state is not None:
            self._state.flush()

    async def sessions(self) -> list[str]:
        """See LimitStore."""
        return self._accounts.sessions()

    async def stats(self) -> dict[str, int]:
        """See LimitStore."""
        return self._accounts.stats()

    async def close(self) -> None:
        """Write what is left and let go of the file."""
        if self._state is not None:
            self._state.flush()
            self._state.close()
