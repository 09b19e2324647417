"""All keys' accounts, in the memory of one process; everyone else asks it.

A reservation is a hold of some session, the process that asked for it. Sessions choose the ids of
their holds and may repeat anything after a reconnect: a hold is taken once and settled once.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from api.ports.rate_limits import Amounts, LimitExceeded, RateLimitStatus
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits.account import WINDOWED, Account, Windowed
from deployments.ledger.limits.quotas import QuotaUsage
from deployments.ledger.limits.sliding_window import COUNTED_S, WINDOW_S
from deployments.ledger.limits.sqlite_state import OpenReservation, SqliteState


@dataclass(frozen=True, slots=True)
class Reservation:
    """One reservation, as the session that made it knows it."""

    id: str
    key_id: str
    amounts: Amounts


class Accounts:
    """Reserves before the work and settles after it.

    Args:
        state: what a killed process left behind, and where this one leaves the same once it is
            flushed.
        clock: for windows: seconds that never go back, and are the same for the next process.
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
        self._holds: dict[str, OpenReservation] = {}
        self._sessions: dict[str, set[str]] = {}
        self._spending = QuotaUsage()
        self._tidied_s = clock()
        if state is not None:
            self._load(state)

    def set_limits(self, limits: Mapping[str, KeyLimits]) -> None:
        """Replace all limits; they hold at once, for what was taken before too."""
        self._limits = {key_id: ours for key_id, ours in limits.items() if ours.has_any}

    def set_spent(self, spent: Mapping[str, tuple[int, int]]) -> None:
        """Begin with the tokens that each key has used this UTC day and month."""
        self._spending.replace(spent, self._wall_clock())

    def spend(self, key_id: str, time_s: float, tokens: int) -> None:
        """Count one more usage record against the quotas.

        It comes before the hold is settled: so the quotas count it twice for a moment, never not
        at all.
        """
        self._spending.add(key_id, time_s, tokens, self._wall_clock())

    def reserve(
        self, session: str, hold_id: str, key_id: str, amounts: Amounts
    ) -> RateLimitStatus | LimitExceeded:
        """Take all of the amounts or nothing; what is held already is not taken twice."""
        limits = self._limits.get(key_id)
        if limits is None:
            return RateLimitStatus()
        now_s = self._clock()
        account = self._account(key_id)
        if hold_id not in self._holds:
            spent = self._spending.of(key_id, self._wall_clock())
            refusal = account.find_refusal(amounts, limits, spent, now_s)
            if refusal is not None:
                return refusal
            self._take(session, Reservation(hold_id, key_id, amounts), now_s)
        return account.standing(limits, now_s)

    def settle(self, hold_id: str, used: Amounts) -> None:
        """End a hold and count what was used instead of what was reserved."""
        if (hold := self._end(hold_id)) is None:
            return
        for kind in WINDOWED:
            unused = getattr(hold.amounts, kind) - getattr(used, kind)
            if unused > 0:
                self._give_back(hold.key_id, kind, hold.tick, unused)
            elif unused < 0:
                self._count(hold.key_id, kind, int(self._clock()), -unused)

    def standing(self, key_id: str) -> RateLimitStatus:
        """How the key's limits stand."""
        limits = self._limits.get(key_id)
        if limits is None:
            return RateLimitStatus()
        return self._account(key_id).standing(limits, self._clock())

    def drop_session(self, session: str) -> None:
        """End all of its holds. What they took of the minute stays taken: nobody knows better."""
        for hold_id in list(self._sessions.get(session, ())):
            self._end(hold_id)

    def restore_session(
        self, session: str, holds: Sequence[Reservation], asked: Collection[str] = ()
    ) -> None:
        """Make the session's holds those that it names.

        What is missing here is taken whatever the limits say, as the work is under way.

        Args:
            session: who is back.
            holds: what it knows to hold.
            asked: ids of what it has asked for without an answer yet: kept if granted, as it will
                ask again.
        """
        named = {hold.id for hold in holds}
        for hold_id in self._sessions.get(session, set()) - named - set(asked):
            self._end(hold_id)
        now_s = self._clock()
        for hold in holds:
            if hold.id not in self._holds and hold.key_id in self._limits:
                self._take(session, hold, now_s)

    def sessions(self) -> list[str]:
        """Those that have holds."""
        return list(self._sessions)

    def stats(self) -> dict[str, int]:
        """What is under way; all zero when nothing is."""
        return {
            "sessions": len(self._sessions),
            "holds": len(self._holds),
            "slots": sum(account.slots for account in self._accounts.values()),
            "open_tokens": sum(account.open_tokens for account in self._accounts.values()),
        }

    def tidy(self) -> None:
        """Forget, once a minute at most, what does not count any more; to be called often."""
        now_s = self._clock()
        if now_s - self._tidied_s < WINDOW_S:
            return
        self._tidied_s = now_s
        idle = [key_id for key_id, account in self._accounts.items() if account.is_idle(now_s)]
        for key_id in idle:
            del self._accounts[key_id]
        if self._state is not None:
            self._state.forget_before(int(now_s) - COUNTED_S)

    def _account(self, key_id: str) -> Account:
        account = self._accounts.get(key_id)
        if account is None:
            account = self._accounts[key_id] = Account()
        return account

    def _take(self, session: str, hold: Reservation, now_s: float) -> None:
        tick = int(now_s)
        opened = OpenReservation(hold.id, session, hold.key_id, hold.amounts, tick)
        self._open(opened)
        if self._state is not None:
            self._state.put_hold(opened)
        for kind in WINDOWED:
            if amount := getattr(hold.amounts, kind):
                self._count(hold.key_id, kind, tick, amount)

    def _open(self, hold: OpenReservation) -> None:
        self._holds[hold.id] = hold
        self._sessions.setdefault(hold.session, set()).add(hold.id)
        account = self._account(hold.key_id)
        account.slots += hold.amounts.slots
        account.open_tokens += hold.amounts.tokens

    def _end(self, hold_id: str) -> OpenReservation | None:
        if (hold := self._holds.pop(hold_id, None)) is None:
            return None
        holds = self._sessions[hold.session]
        holds.discard(hold_id)
        if not holds:
            del self._sessions[hold.session]
        account = self._account(hold.key_id)
        account.slots -= hold.amounts.slots
        account.open_tokens -= hold.amounts.tokens
        if self._state is not None:
            self._state.drop_hold(hold_id)
        return hold

    def _count(self, key_id: str, kind: Windowed, tick: int, amount: int) -> None:
        total = self._account(key_id).windows[kind].take(tick, amount)
        if self._state is not None:
            self._state.put_bucket(key_id, kind, tick, total)

    def _give_back(self, key_id: str, kind: Windowed, tick: int, amount: int) -> None:
        total = self._account(key_id).windows[kind].give_back(tick, amount)
        if self._state is not None:
            self._state.put_bucket(key_id, kind, tick, total)

    def _load(self, state: SqliteState) -> None:
        now_s = self._clock()
        buckets, holds = state.load()
        for key_id, kind, tick, amount in buckets:
            # One of the future would be another clock's, and count for who knows how long.
            if tick <= now_s < tick + COUNTED_S:
                self._account(key_id).windows[kind].take(tick, amount)
        for hold in holds:
            self._open(hold)
