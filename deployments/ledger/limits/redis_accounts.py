"""The limit store in a Redis that several ledgers share, for fleets too large for one process.

A session's reservations last as long as it renews its lease. A settlement that fails because Redis
is away stays owed, and is made with the next renewal.

Redis is asked by key id, so this process remembers the key of each reservation.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import RedisError

from api.errors import UnavailableError
from api.ports.rate_limits import Amounts, LimitExceeded, RateLimitStatus
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits import redis_scripts as scripts
from deployments.ledger.limits.account import requested_tokens
from deployments.ledger.limits.quotas import day_of, month_of
from deployments.ledger.limits.redis_format import (
    limits_by_name,
    to_exceeded,
    to_status,
    to_stored_amounts,
)
from deployments.ledger.limits.store import Reservation

logger = logging.getLogger(__name__)

_TIMEOUT_S = 1.0
"""A client's request waits as long for an answer of Redis."""

_CONNECTIONS = 32
"""Calls beyond these queue; Redis runs one script at a time anyway."""

_BACKOFF_S = 0.05

_QUOTAS_KEPT = {"day_s": 3 * 86_400, "month_s": 63 * 86_400}


def connect(url: str, *, timeout_s: float = _TIMEOUT_S) -> Redis:
    """Prepare connections to Redis, which are opened when they are needed.

    Args:
        url: in redis-py's form; it may contain a password.
        timeout_s: for a free connection, to connect, and for an answer.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=_CONNECTIONS,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        # One retry replaces a connection that a restart of Redis has broken.
        retry=Retry(ConstantBackoff(_BACKOFF_S), 1),
        decode_responses=True,
    )
    return Redis.from_pool(pool)


class RedisAccounts:
    """All keys' accounts. See LimitStore for the methods.

    Args:
        redis: connections that decode responses, as `connect` makes them.
        prefix: of all Redis keys, so that several services can share a Redis.
        wall_clock: Unix time, for the names of days and months; windows use Redis's own clock.
    """

    def __init__(
        self, redis: Redis, prefix: str = "triptych", wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._prefix = prefix
        self._wall_clock = wall_clock
        self._limits: Mapping[str, KeyLimits] = {}
        self._reservations: dict[str, tuple[str, Reservation]] = {}
        """Reservation id → session and reservation."""
        self._owed: dict[str, tuple[Reservation, Amounts]] = {}
        """Reservation id → the reservation and what was used of it."""
        self._reserve = redis.register_script(scripts.RESERVE)
        self._settle = redis.register_script(scripts.SETTLE)
        self._renew = redis.register_script(scripts.RENEW)
        self._add_quota_usage = redis.register_script(scripts.ADD_QUOTA_USAGE)
        self._set_quota_usage = redis.register_script(scripts.SET_QUOTA_USAGE)

    async def set_limits(self, limits: Mapping[str, KeyLimits]) -> None:
        """See LimitStore. The limits stay in this process and go with each call."""
        self._limits = {key_id: each for key_id, each in limits.items() if each.has_any}

    async def set_quota_usage(self, usage: Mapping[str, tuple[int, int]]) -> None:
        """See LimitStore. A larger number in Redis is kept."""
        for key_id, (day, month) in usage.items():
            await self._run(self._set_quota_usage, key_id, day=day, month=month, **_QUOTAS_KEPT)

    async def add_quota_usage(self, key_id: str, time_s: float, tokens: int) -> None:
        """See LimitStore."""
        await self._run(self._add_quota_usage, key_id, time_s=time_s, tokens=tokens, **_QUOTAS_KEPT)

    async def reserve(
        self, session: str, reservation_id: str, key_id: str, amounts: Amounts
    ) -> RateLimitStatus | LimitExceeded:
        """See LimitStore."""
        limits = self._limits.get(key_id)
        if limits is None:
            return RateLimitStatus()
        reservation = Reservation(reservation_id, key_id, amounts)
        self._owed.pop(reservation_id, None)
        args: dict[str, Any] = {
            "session": session,
            "id": reservation_id,
            "tokens": requested_tokens(amounts),
            "amounts": to_stored_amounts(amounts),
            "limits": limits_by_name(limits),
        }
        try:
            answer = await self._run(self._reserve, key_id, **args)
        except (UnavailableError, asyncio.CancelledError):
            if reservation_id not in self._reservations:
                # Redis may have granted it, so it must be settled.
                self._owed[reservation_id] = (reservation, Amounts())
            raise
        limit_name, numbers, *details = answer
        status = to_status(numbers, limits)
        if limit_name:
            return to_exceeded(limit_name, details, amounts, limits, status)
        self._reservations[reservation_id] = (session, reservation)
        return status

    async def settle(self, reservation_id: str, used: Amounts) -> None:
        """See LimitStore. If Redis is away, the next renewal settles."""
        _, reservation = self._reservations.pop(reservation_id, (None, None))
        if reservation is not None:
            self._owed[reservation_id] = (reservation, used)
            try:
                await self._settle_owed(reservation_id)
            except UnavailableError as error:
                logger.warning("a reservation is settled later: %s", error.__cause__)

    async def renew(self, session: str) -> None:
        """See LimitStore. Reservations that lapsed meanwhile are restored."""
        for reservation_id in list(self._owed):
            await self._settle_owed(reservation_id)
        for key_id, reservations in self._by_key(session).items():
            restored = await self._renew_lease(session, key_id, reservations, is_complete=False)
            self._owe_settled([each for each in reservations if each.id in restored])

    async def restore_session(
        self, session: str, reservations: Sequence[Reservation], pending_ids: Collection[str] = ()
    ) -> None:
        """See LimitStore."""
        before = self._by_key(session)
        self._forget(session, except_ids=pending_ids)
        limited = [each for each in reservations if each.key_id in self._limits]
        self._reservations.update((each.id, (session, each)) for each in limited)
        named = self._by_key(session)
        for key_id in {**before, **named}:
            await self._renew_lease(
                session, key_id, named.get(key_id, []), is_complete=True, pending_ids=pending_ids
            )

    async def drop_session(self, session: str) -> None:
        """See LimitStore. If Redis is away, the session's reservations end with its lease."""
        before = self._by_key(session)
        self._forget(session)
        for key_id in before:
            await self._renew_lease(session, key_id, [], is_complete=True)

    async def flush(self) -> None:
        """Do nothing: every change is in Redis already."""

    async def sessions(self) -> list[str]:
        """See LimitStore."""
        return list({session for session, _ in self._reservations.values()})

    async def stats(self) -> dict[str, int]:
        """See LimitStore."""
        amounts = [reservation.amounts for _, reservation in self._reservations.values()]
        return {
            "sessions": len({session for session, _ in self._reservations.values()}),
            "reservations": len(amounts),
            "concurrent": sum(each.concurrent for each in amounts),
            "open_tokens": sum(each.tokens for each in amounts),
        }

    async def _run(
        self, script: Any, key_id: str, *, time_s: float | None = None, **args: Any
    ) -> Any:
        day = day_of(self._wall_clock() if time_s is None else time_s)
        account = f"{{{self._prefix}:{key_id}}}"
        names = (*scripts.KEYS, f"day:{day}", f"month:{month_of(day)}")
        with _translating():
            return await script([f"{account}:{name}" for name in names], [json.dumps(args)])

    async def _renew_lease(
        self,
        session: str,
        key_id: str,
        reservations: Sequence[Reservation],
        *,
        is_complete: bool,
        pending_ids: Collection[str] = (),
    ) -> list[str]:
        """Renew a session's lease on a key; returns the ids that were missing and are restored.

        Args:
            session: whose lease.
            key_id: whose account.
            reservations: what the session has reserved of the key.
            is_complete: whether the session's other reservations end.
            pending_ids: reservations that do not end even so.
        """
        named = [
            {"id": each.id, "amounts": to_stored_amounts(each.amounts)} for each in reservations
        ]
        restored: list[str] = await self._run(
            self._renew,
            key_id,
            session=session,
            reservations=named,
            is_complete=is_complete,
            pending_ids=list(pending_ids),
        )
        return restored

    async def _settle_owed(self, reservation_id: str) -> None:
        if (owed := self._owed.get(reservation_id)) is not None:
            reservation, used = owed
            key_id = reservation.key_id
            await self._run(self._settle, key_id, id=reservation_id, used=to_stored_amounts(used))
            self._owed.pop(reservation_id, None)

    def _owe_settled(self, restored: Sequence[Reservation]) -> None:
        """Settle again what was settled while it was being restored: it would never end."""
        for reservation in restored:
            if reservation.id not in self._reservations:
                self._owed[reservation.id] = (reservation, reservation.amounts)

    def _by_key(self, session: str) -> dict[str, list[Reservation]]:
        ours = [each for owner, each in self._reservations.values() if owner == session]
        ours.sort(key=lambda each: each.key_id)
        return {key_id: list(group) for key_id, group in groupby(ours, lambda each: each.key_id)}

    def _forget(self, session: str, except_ids: Collection[str] = ()) -> None:
        self._reservations = {
            id_: each
            for id_, each in self._reservations.items()
            if each[0] != session or id_ in except_ids
        }


@contextlib.contextmanager
def _translating() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        message = "The limits of this key cannot be checked at the moment; try again."
        raise UnavailableError(message) from error
