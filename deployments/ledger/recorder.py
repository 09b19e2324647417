"""The writer of usage records: takes them from many clients, commits them in groups."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from api.errors import UnavailableError
from api.ports.rate_limits import Amounts
from deployments.ledger.limits.store import LimitStore
from deployments.ledger.protocol import (
    Finish,
    Recorded,
)
from deployments.ledger.records import UsageRecord
from deployments.ledger.store.errors import StoreError

logger = logging.getLogger(__name__)

_GROUP_S = 0.1
"""A transaction costs two milliseconds of CPU, however many records it holds."""
_MAX_GROUP = 1000
_RETRY_S = 1.0
_WRITE_TIMEOUT_S = 10.0
"""What was reserved and not used comes back after as long, though nothing can be recorded."""


class UsageTable(Protocol):
    """Where usage is recorded; both methods raise `StoreError` when that cannot be reached."""

    async def known(self, ids: Sequence[str]) -> set[str]:
        """Those of these records that are there."""

    async def add(self, records: Sequence[UsageRecord]) -> None:
        """Add those that are not."""


class Recorder:
    """Writes usage records in groups, and settles the holds of those that it has written."""

    def __init__(self, limits: LimitStore, usage: UsageTable) -> None:
        """Write to `usage`."""
        self._limits = limits
        self._usage = usage
        self._waiting: dict[str, tuple[Finish, Callable[[Any], None]]] = {}
        self._is_waiting = asyncio.Event()
        self._settled: set[str] = set()

    @property
    def waiting(self) -> int:
        """How many records are not written yet."""
        return len(self._waiting)

    def add(self, finish: Finish, answer: Callable[[Any], None]) -> None:
        """Write one soon; `answer` is told when it is written."""
        self._waiting[finish.record.id] = (finish, answer)
        self._is_waiting.set()

    async def run(self) -> None:
        """Write whatever comes, for ever."""
        while True:
            await self._is_waiting.wait()
            await asyncio.sleep(_GROUP_S)
            group = list(self._waiting.values())[:_MAX_GROUP]
            is_written = await self._write([finish for finish, _ in group])
            if not is_written:
                await asyncio.sleep(_RETRY_S)
                continue
            for finish, _ in group:
                _, answer = self._waiting.pop(finish.record.id)  # it may have come once more
                self._settled.discard(finish.record.id)
                answer(Recorded([finish.record.id]))
            if not self._waiting:
                self._is_waiting.clear()

    async def _write(self, group: list[Finish]) -> bool:
        repeated = [finish.record.id for finish in group if finish.is_repeated]
        try:
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                known = await self._usage.known(repeated) if repeated else set()
                await self._usage.add([finish.record for finish in group])
        except (StoreError, TimeoutError) as error:
            reason = str(error) or "the database does not answer"
            logger.error("usage cannot be recorded, and is kept until it can: %s", reason)
            known, is_written = set(), False
        else:
            is_written = True
        for finish in group:
            if finish.record.id not in self._settled:
                self._settled.add(finish.record.id)
                await self._settle(finish, is_known=finish.record.id in known)
        await self._limits.flush()
        return is_written

    async def _settle(self, finish: Finish, *, is_known: bool) -> None:
        """Count what was used: against the quotas once only, however often the record comes."""
        record = finish.record
        if not is_known:
            try:
                await self._limits.spend(record.key_id, record.time_s, record.tokens)
            except UnavailableError as error:
                logger.error("%d tokens are not counted against quotas: %s", record.tokens, error)
        if finish.hold_id is not None:
            try:
                await self._limits.settle(finish.hold_id, Amounts(tokens=record.tokens))
            except UnavailableError as error:
                logger.error("a hold cannot be settled: %s", error)
