"""The accounts in a Redis that many ledgers share, for fleets that one process cannot serve.

Sessions are believed for as long as they renew their leases. What could not be settled because
Redis was away is owed, and settled with the next renewal.

Redis is asked by key, so this process remembers which key a hold is of.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import RedisError

from api.errors import UnavailableError
from api.ports.rate_limits import Amounts, LimitExceeded, LimitName, RateLimitStatus, Window
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits import redis_scripts as scripts
from deployments.ledger.limits.account import asked_tokens
from deployments.ledger.limits.accounts import Reservation
from deployments.ledger.limits.quotas import day_of, month_of

logger = logging.getLogger(__name__)

_TIMEOUT_S = 1.0
"""For Redis to answer: a request waits for it."""

_CONNECTIONS = 32
"""A burst of more questions waits its turn; Redis answers one at a time anyway."""

_BACKOFF_S = 0.05

_QUOTAS_KEPT = {"day_s": 3 * 86_400, "month_s": 63 * 86_400}


class RedisAccounts:
    """See LimitStore.

    Args:
        url: as redis-py reads it; it may hold a password.
        prefix: of all keys, so that services can share a Redis.
        wall_clock: for the names of days and months; windows go by the clock of Redis.
    """

    def __init__(
        self, url: str, prefix: str = "triptych", wall_clock: Callable[[], float] = time.time
    ) -> None:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=_TIMEOUT_S,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            # Once more, for connections that a restart of Redis has broken.
            retry=Retry(ConstantBackoff(_BACKOFF_S), 1),
            decode_responses=True,
        )
        self._redis: Redis = Redis.from_pool(pool)
        self._prefix = prefix
        self._wall_clock = wall_clock
        self._limits: Mapping[str, KeyLimits] = {}
        self._holds: dict[str, tuple[str, Reservation]] = {}
        self._owed: dict[str, tuple[Reservation, Amounts]] = {}
        self._reserve = self._redis.register_script(scripts.RESERVE)
        self._settle = self._redis.register_script(scripts.SETTLE)
        self._renew = self._redis.register_script(scripts.RENEW)
        self._standing = self._redis.register_script(scripts.STANDING)
        self._spend = self._redis.register_script(scripts.SPEND)
        self._seed = self._redis.register_script(scripts.SEED)

    async def set_limits(self, limits: Mapping[str, KeyLimits]) -> None:
        """See LimitStore. They are kept here, and sent with each question."""
        self._limits = {key_id: ours for key_id, ours in limits.items() if ours.has_any}

    async def set_spent(self, spent: Mapping[str, tuple[int, int]]) -> None:
        """See LimitStore. What Redis has counted already stays, if it is more."""
        for key_id, (day, month) in spent.items():
            await self._run(self._seed, key_id, day=day, month=month, **_QUOTAS_KEPT)

    async def spend(self, key_id: str, time_s: float, tokens: int) -> None:
        """See LimitStore."""
        await self._run(self._spend, key_id, time_s=time_s, tokens=tokens, **_QUOTAS_KEPT)

    async def reserve(
        self, session: str, hold_id: str, key_id: str, amounts: Amounts
    ) -> RateLimitStatus | LimitExceeded:
        """See LimitStore."""
        limits = self._limits.get(key_id)
        if limits is None:
            return RateLimitStatus()
        hold = Reservation(hold_id, key_id, amounts)
        self._owed.pop(hold_id, None)
        asked = asked_tokens(amounts)
        ask: dict[str, Any] = {"session": session, "id": hold_id, "tokens": asked}
        ask |= {"amounts": asdict(amounts), "limits": _by_name(limits)}
        try:
            answer = await self._run(self._reserve, key_id, **ask)
        except (UnavailableError, asyncio.CancelledError):
            if hold_id not in self._holds:
                self._owed[hold_id] = (hold, Amounts())  # it may have been granted nevertheless
            raise
        limited, numbers, *why = answer
        if limited:
            return _to_refusal(limited, why, amounts, limits, _to_standing(numbers, limits))
        self._holds[hold_id] = (session, hold)
        return _to_standing(numbers, limits)

    async def settle(self, hold_id: str, used: Amounts) -> None:
        """See LimitStore. If Redis cannot be asked, this is done with the next renewal."""
        _, hold = self._holds.pop(hold_id, (None, None))
        if hold is not None:
            self._owed[hold_id] = (hold, used)
            try:
                await self._pay(hold_id)
            except UnavailableError as error:
                logger.warning("a hold is settled later: %s", error.__cause__)

    async def standing(self, key_id: str) -> RateLimitStatus:
        """See LimitStore."""
        limits = self._limits.get(key_id)
        if limits is None:
            return RateLimitStatus()
        return _to_standing(await self._run(self._standing, key_id), limits)

    async def renew(self, session: str) -> None:
        """See LimitStore. Holds that were given up because Redis or we were away are restored."""
        for hold_id in list(self._owed):
            await self._pay(hold_id)
        for key_id, holds in self._held_by(session).items():
            restored = await self._name(session, key_id, holds, is_all=False)
            self._settle_again([hold for hold in holds if hold.id in restored])

    async def restore_session(
        self, session: str, holds: Sequence[Reservation], asked: Collection[str] = ()
    ) -> None:
        """See LimitStore."""
        before = self._held_by(session)
        self._forget(session, but=asked)
        limited = [hold for hold in holds if hold.key_id in self._limits]
        self._holds.update((hold.id, (session, hold)) for hold in limited)
        named = self._held_by(session)
        for key_id in {**before, **named}:
            ours = named.get(key_id, [])
            await self._name(session, key_id, ours, is_all=True, asked=asked)

    async def drop_session(self, session: str) -> None:
        """See LimitStore. If Redis cannot be asked, its leases end the holds."""
        before = self._held_by(session)
        self._forget(session)
        for key_id in before:
            await self._name(session, key_id, [], is_all=True)

    async def flush(self) -> None:
        """Everything is in Redis already."""

    async def sessions(self) -> list[str]:
        """See LimitStore."""
        return list({session for session, _ in self._holds.values()})

    async def stats(self) -> dict[str, int]:
        """See LimitStore."""
        holds = [hold for _, hold in self._holds.values()]
        return {
            "sessions": len({session for session, _ in self._holds.values()}),
            "holds": len(holds),
            "slots": sum(hold.amounts.slots for hold in holds),
            "open_tokens": sum(hold.amounts.tokens for hold in holds),
        }

    async def close(self) -> None:
        """See LimitStore."""
        await self._redis.aclose()

    async def _run(
        self, script: Any, key_id: str, *, time_s: float | None = None, **ask: Any
    ) -> Any:
        day = day_of(self._wall_clock() if time_s is None else time_s)
        account = f"{{{self._prefix}:{key_id}}}"
        names = (*scripts.KEYS, f"day:{day}", f"month:{month_of(day)}")
        with _translated():
            return await script([f"{account}:{name}" for name in names], [json.dumps(ask)])

    async def _name(
        self,
        session: str,
        key_id: str,
        holds: Sequence[Reservation],
        *,
        is_all: bool,
        asked: Collection[str] = (),
    ) -> list[str]:
        """Renew the lease of a session, and say what it holds; returns ids that were missing."""
        named = [{"id": hold.id, "amounts": asdict(hold.amounts)} for hold in holds]
        restored: list[str] = await self._run(
            self._renew, key_id, session=session, holds=named, is_all=is_all, asked=list(asked)
        )
        return restored

    async def _pay(self, hold_id: str) -> None:
        if (owed := self._owed.get(hold_id)) is not None:
            hold, used = owed
            await self._run(self._settle, hold.key_id, id=hold_id, used=asdict(used))
            self._owed.pop(hold_id, None)

    def _settle_again(self, restored: Sequence[Reservation]) -> None:
        """What was settled while it was being restored would be held for ever."""
        for hold in restored:
            if hold.id not in self._holds:
                self._owed[hold.id] = (hold, hold.amounts)

    def _held_by(self, session: str) -> dict[str, list[Reservation]]:
        """By key."""
        ours = [hold for holder, hold in self._holds.values() if holder == session]
        ours.sort(key=lambda hold: hold.key_id)
        return {key: list(holds) for key, holds in groupby(ours, lambda hold: hold.key_id)}

    def _forget(self, session: str, but: Collection[str] = ()) -> None:
        self._holds = {
            id_: held for id_, held in self._holds.items() if held[0] != session or id_ in but
        }


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        message = "The limits of this key cannot be checked at the moment; try again."
        raise UnavailableError(message) from error


def _by_name(limits: KeyLimits) -> dict[LimitName, int]:
    """Those that there are, under the names that a refusal has."""
    named: dict[LimitName, int | None] = {
        "requests": limits.requests_per_minute,
        "tokens": limits.tokens_per_minute,
        "images": limits.images_per_minute,
        "concurrent": limits.concurrent_requests,
        "day": limits.tokens_per_day,
        "month": limits.tokens_per_month,
    }
    return {name: limit for name, limit in named.items() if limit is not None}


def _to_standing(numbers: Sequence[str], limits: KeyLimits) -> RateLimitStatus:
    requests_used, requests_reset_s, tokens_used, tokens_reset_s = numbers
    return RateLimitStatus(
        requests=_to_window(limits.requests_per_minute, requests_used, requests_reset_s),
        tokens=_to_window(limits.tokens_per_minute, tokens_used, tokens_reset_s),
    )


def _to_window(limit: int | None, used: str, reset_s: str) -> Window | None:
    return None if limit is None else Window(limit, max(limit - int(used), 0), float(reset_s))


def _to_refusal(
    limited: LimitName,
    why: Sequence[str],
    amounts: Amounts,
    limits: KeyLimits,
    standing: RateLimitStatus,
) -> LimitExceeded:
    used, wait_s = why
    asked: dict[LimitName, int] = {
        "requests": amounts.requests,
        "images": amounts.images,
        "concurrent": amounts.slots,
    }
    return LimitExceeded(
        limited=limited,
        limit=_by_name(limits)[limited],
        used=int(used),
        asked=asked.get(limited, asked_tokens(amounts)),
        retry_after_s=float(wait_s) if wait_s else None,
        standing=standing,
    )
