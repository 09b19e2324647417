"""Writes usage records to the database in groups, and settles their reservations."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from api.errors import UnavailableError
from api.ports.rate_limits import Amounts
from deployments.ledger.limits.store import LimitStore
from deployments.ledger.protocol import Finish, Recorded
from deployments.ledger.records import UsageRecord
from deployments.ledger.store.errors import StoreError
from deployments.observability.outage import Outage

logger = logging.getLogger(__name__)

_GROUP_S = 0.1
"""A transaction costs 2 ms of CPU, however many records it writes."""

_MAX_GROUP = 1000
_RETRY_S = 1.0
_WRITE_TIMEOUT_S = 10.0
"""Reservations are settled after this long even if the database does not answer."""


class UsageTable(Protocol):
    """Stores usage records; both methods raise StoreError if the database cannot be used."""

    async def known(self, ids: Sequence[str]) -> set[str]:
        """The ids of records that are stored already."""

    async def add(self, records: Sequence[UsageRecord]) -> None:
        """Store all of the records or none; those stored already are left alone."""


class Recorder:
    """Queues usage records from many clients and writes them in groups."""

    def __init__(
        self,
        limits: LimitStore,
        usage: UsageTable,
        *,
        retry_s: float = _RETRY_S,
        write_timeout_s: float = _WRITE_TIMEOUT_S,
    ) -> None:
        """Write to `usage`, and count what was used in `limits`.

        Args:
            limits: where reservations are settled and quotas are counted.
            usage: where records are stored.
            retry_s: pause after a write that failed.
            write_timeout_s: how long one write may take.
        """
        self._limits = limits
        self._usage = usage
        self._retry_s = retry_s
        self._write_timeout_s = write_timeout_s
        self._waiting: dict[str, tuple[Finish, Callable[[Any], None]]] = {}
        self._is_waiting = asyncio.Event()
        self._settled: set[str] = set()
        self._outage = Outage(logger)

    @property
    def waiting(self) -> int:
        """The number of records that are not written yet."""
        return len(self._waiting)

    def add(self, finish: Finish, answer: Callable[[Any], None]) -> None:
        """Queue a record; `answer` is called with `Recorded` when it is written."""
        self._waiting[finish.record.id] = (finish, answer)
        self._is_waiting.set()

    async def run(self) -> None:
        """Write the queued records, for ever."""
        while True:
            await self._is_waiting.wait()
            await asyncio.sleep(_GROUP_S)
            group = list(self._waiting.values())[:_MAX_GROUP]
            is_written = await self._write([finish for finish, _ in group])
            if not is_written:
                await asyncio.sleep(self._retry_s)
                continue
            for finish, _ in group:
                # The latest callback: the client may have reconnected and sent the record again.
                _, answer = self._waiting.pop(finish.record.id)
                self._settled.discard(finish.record.id)
                answer(Recorded([finish.record.id]))
            if not self._waiting:
                self._is_waiting.clear()

    async def _write(self, group: list[Finish]) -> bool:
        repeated = [finish.record.id for finish in group if finish.is_repeated]
        try:
            async with asyncio.timeout(self._write_timeout_s):
                known = await self._usage.known(repeated) if repeated else set()
                await self._usage.add([finish.record for finish in group])
        except (StoreError, TimeoutError) as error:
            reason = str(error) or "the database does not answer"
            self._outage.begin("usage cannot be recorded and is kept for a retry: %s", reason)
            known, is_written = set(), False
        else:
            self._outage.end("usage is recorded again")
            is_written = True
        for finish in group:
            if finish.record.id not in self._settled:
                self._settled.add(finish.record.id)
                await self._settle(finish, is_known=finish.record.id in known)
        await self._limits.flush()
        return is_written

    async def _settle(self, finish: Finish, *, is_known: bool) -> None:
        """Count what was used; against the quotas only once, however often the record arrives."""
        record = finish.record
        if not is_known:
            try:
                await self._limits.add_quota_usage(record.key_id, record.time_s, record.tokens)
            except UnavailableError as error:
                logger.error("%d tokens are not counted against quotas: %s", record.tokens, error)
        if finish.reservation_id is not None:
            try:
                await self._limits.settle(finish.reservation_id, Amounts(tokens=record.tokens))
            except UnavailableError as error:
                logger.error("a reservation cannot be settled: %s", error)
