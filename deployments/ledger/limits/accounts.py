"""The limit store in the memory of one process: the default, where one ledger serves all."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from api.ports.rate_limits import Amounts, LimitExceeded, RateLimitStatus
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits.account import WINDOW_NAMES, Account, WindowName
from deployments.ledger.limits.quotas import QuotaUsage
from deployments.ledger.limits.sliding_window import COUNTED_S, WINDOW_S
from deployments.ledger.limits.sqlite_state import OpenReservation, SqliteState
from deployments.ledger.limits.store import Reservation


class Accounts:
    """All keys' accounts. See LimitStore for the methods.

    Args:
        state: what an earlier process left, and where `flush` writes; without it, the accounts
            end with this process.
        clock: for windows: monotonic seconds, which a next process continues.
        wall_clock: for quotas: Unix time.
    """

    def __init__(
        self,
        state: SqliteState | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._clock = clock
        self._wall_clock = wall_clock
        self._limits: Mapping[str, KeyLimits] = {}
        self._accounts: dict[str, Account] = {}
        self._reservations: dict[str, OpenReservation] = {}
        self._sessions: dict[str, set[str]] = {}
        """Session → ids of its reservations."""
        self._quota_usage = QuotaUsage()
        self._pruned_s = clock()
        if state is not None:
            self._load(state)

    async def set_limits(self, limits: Mapping[str, KeyLimits]) -> None:
        """See LimitStore. What was used before counts against the new limits too."""
        self._limits = {key_id: each for key_id, each in limits.items() if each.has_any}

    async def set_quota_usage(self, usage: Mapping[str, tuple[int, int]]) -> None:
        """See LimitStore."""
        self._quota_usage.replace(usage, self._wall_clock())

    async def add_quota_usage(self, key_id: str, time_s: float, tokens: int) -> None:
        """See LimitStore."""
        self._quota_usage.add(key_id, time_s, tokens, self._wall_clock())

    async def reserve(
        self, session: str, reservation_id: str, key_id: str, amounts: Amounts
    ) -> RateLimitStatus | LimitExceeded:
        """See LimitStore."""
        limits = self._limits.get(key_id)
        if limits is None:
            return RateLimitStatus()
        now_s = self._clock()
        account = self._account(key_id)
        if reservation_id not in self._reservations:
            quota_usage = self._quota_usage.of(key_id, self._wall_clock())
            exceeded = account.find_exceeded(amounts, limits, quota_usage, now_s)
            if exceeded is not None:
                return exceeded
            self._take(session, Reservation(reservation_id, key_id, amounts), now_s)
        return account.status(limits, now_s)

    async def settle(self, reservation_id: str, used: Amounts) -> None:
        """See LimitStore."""
        if (reservation := self._close(reservation_id)) is None:
            return
        for name in WINDOW_NAMES:
            unused = getattr(reservation.amounts, name) - getattr(used, name)
            if unused > 0:
                self._refund(reservation.key_id, name, reservation.second, unused)
            elif unused < 0:
                self._count(reservation.key_id, name, int(self._clock()), -unused)

    async def renew(self, session: str) -> None:
        """Do nothing: the ledger notices itself when a session's connection ends."""

    async def restore_session(
        self, session: str, reservations: Sequence[Reservation], pending_ids: Collection[str] = ()
    ) -> None:
        """See LimitStore."""
        named = {reservation.id for reservation in reservations}
        for reservation_id in self._sessions.get(session, set()) - named - set(pending_ids):
            self._close(reservation_id)
        now_s = self._clock()
        for reservation in reservations:
            if reservation.id not in self._reservations and reservation.key_id in self._limits:
                self._take(session, reservation, now_s)

    async def drop_session(self, session: str) -> None:
        """See LimitStore."""
        for reservation_id in list(self._sessions.get(session, ())):
            self._close(reservation_id)

    async def flush(self) -> None:
        """See LimitStore."""
        self._prune()
        if self._state is not None:
            self._state.flush()

    async def sessions(self) -> list[str]:
        """See LimitStore."""
        return list(self._sessions)

    async def stats(self) -> dict[str, int]:
        """See LimitStore."""
        return {
            "sessions": len(self._sessions),
            "reservations": len(self._reservations),
            "concurrent": sum(account.concurrent for account in self._accounts.values()),
            "open_tokens": sum(account.open_tokens for account in self._accounts.values()),
        }

    def _prune(self) -> None:
        """Delete idle accounts and old buckets, at most once a minute."""
        now_s = self._clock()
        if now_s - self._pruned_s < WINDOW_S:
            return
        self._pruned_s = now_s
        idle = [key_id for key_id, account in self._accounts.items() if account.is_idle(now_s)]
        for key_id in idle:
            del self._accounts[key_id]
        if self._state is not None:
            self._state.delete_before(int(now_s) - COUNTED_S)

    def _account(self, key_id: str) -> Account:
        account = self._accounts.get(key_id)
        if account is None:
            account = self._accounts[key_id] = Account()
        return account

    def _take(self, session: str, reservation: Reservation, now_s: float) -> None:
        second = int(now_s)
        opened = OpenReservation(
            reservation.id, session, reservation.key_id, reservation.amounts, second
        )
        self._open(opened)
        if self._state is not None:
            self._state.put_reservation(opened)
        for name in WINDOW_NAMES:
            if amount := getattr(reservation.amounts, name):
                self._count(reservation.key_id, name, second, amount)

    def _open(self, reservation: OpenReservation) -> None:
        self._reservations[reservation.id] = reservation
        self._sessions.setdefault(reservation.session, set()).add(reservation.id)
        account = self._account(reservation.key_id)
        account.concurrent += reservation.amounts.concurrent
        account.open_tokens += reservation.amounts.tokens

    def _close(self, reservation_id: str) -> OpenReservation | None:
        if (reservation := self._reservations.pop(reservation_id, None)) is None:
            return None
        ids = self._sessions[reservation.session]
        ids.discard(reservation_id)
        if not ids:
            del self._sessions[reservation.session]
        account = self._account(reservation.key_id)
        account.concurrent -= reservation.amounts.concurrent
        account.open_tokens -= reservation.amounts.tokens
        if self._state is not None:
            self._state.delete_reservation(reservation_id)
        return reservation

    def _count(self, key_id: str, name: WindowName, second: int, amount: int) -> None:
        total = self._account(key_id).windows[name].add(second, amount)
        if self._state is not None:
            self._state.put_bucket(key_id, name, second, total)

    def _refund(self, key_id: str, name: WindowName, second: int, amount: int) -> None:
        total = self._account(key_id).windows[name].refund(second, amount)
        if self._state is not None:
            self._state.put_bucket(key_id, name, second, total)

    def _load(self, state: SqliteState) -> None:
        now_s = self._clock()
        buckets, reservations = state.load()
        for key_id, name, second, amount in buckets:
            # A bucket from the future was written by another clock; when it would stop counting
            # is unknowable.
            if second <= now_s < second + COUNTED_S:
                self._account(key_id).windows[name].add(second, amount)
        for reservation in reservations:
            self._open(reservation)
