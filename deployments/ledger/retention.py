"""Rolls up usage records that are older than they are kept."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from deployments.ledger.limits.quotas import day_of
from deployments.ledger.store.errors import StoreError

logger = logging.getLogger(__name__)

_INTERVAL_S = 3600.0
_PAUSE_S = 0.2
"""SQLite's waiting writers look every 0.1 s whether the database is free."""


class UsageRetention:
    """Keeps the records of today and of some whole days before it."""

    def __init__(
        self,
        prepare: Callable[[], Awaitable[None]],
        roll_up: Callable[[int], Awaitable[int]],
        days: int,
        *,
        interval_s: float = _INTERVAL_S,
        pause_s: float = _PAUSE_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Keep records for `days`; both functions raise StoreError if the database is away.

        Args:
            prepare: migrates the database; called at each turn.
            roll_up: rolls up some records from before a day, given as days since 1970-01-01;
                returns how many, 0 if there were none.
            days: how many UTC days before today keep their records; may be replaced.
            interval_s: pause between two turns.
            pause_s: pause between two calls of `roll_up`, in which others can write.
            clock: Unix time.
        """
        self._prepare = prepare
        self._roll_up = roll_up
        self.days = days
        self._interval_s = interval_s
        self._pause_s = pause_s
        self._clock = clock

    async def run(self) -> None:
        """Roll up what is too old, now and after each interval, for ever."""
        while True:
            try:
                await self._take_turn()
            except StoreError as error:
                logger.error("old usage cannot be rolled up; trying again later: %s", error)
            except Exception:  # must not end the loop: the database would grow for ever
                logger.exception("old usage cannot be rolled up; trying again later")
            await asyncio.sleep(self._interval_s)

    async def _take_turn(self) -> None:
        await self._prepare()
        before_day = day_of(self._clock()) - self.days
        total = 0
        while count := await self._roll_up(before_day):
            total += count
            await asyncio.sleep(self._pause_s)
        if total:
            logger.info("%d old usage records were rolled up by day", total)
