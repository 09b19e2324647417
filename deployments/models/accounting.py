"""Accounting for the requests of one replica: token limits, queueing, and usage records."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from api.errors import ApiError, InvalidRequestError
from api.ports.rate_limits import Amounts
from api.ports.tenancy import ModelKind, RequestContext
from deployments.engines.protocol import RequestProgress
from deployments.home import find_home
from deployments.ledger.client import HeldReservation, LedgerClient
from deployments.ledger.records import UsageRecord
from deployments.ledger.spool import OrphanedSpool, Spool, find_orphaned_spools
from deployments.models.fair_queue import FairQueue

logger = logging.getLogger(__name__)

_CANCELLED = "cancelled"
"""Error code of requests that were cancelled: the client disconnected, or the deadline passed."""


class _PendingReplay:
    """Records of a dead replica that the ledger has not confirmed yet."""

    def __init__(self, ids: set[str]) -> None:
        self._ids = ids
        self.is_recorded = asyncio.Event()
        self.confirm([])

    def confirm(self, ids: Iterable[str]) -> None:
        self._ids.difference_update(ids)
        if not self._ids:
            self.is_recorded.set()


class AccountedRequest(RequestProgress):
    """One request: reserves tokens, waits for a slot, and records the time of each stage."""

    def __init__(
        self,
        context: RequestContext,
        queue: FairQueue,
        ledger: LedgerClient,
        on_waiting: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Start the clock of a request that has just arrived; `on_waiting` as of `FairQueue`."""
        super().__init__()
        self.received_s = time.monotonic()
        self.began_s: float | None = None
        self.first_s: float | None = None
        self.finish_reason: str | None = None
        self.reservation: HeldReservation | None = None
        self._context = context
        self._queue = queue
        self._ledger = ledger
        self._on_waiting = on_waiting
        self._stack = AsyncExitStack()

    async def begin(self, tokens: int, size: int = 1) -> None:
        """Reserve tokens, then wait for slots of the engine; see `RequestProgress.begin`."""
        context = self._context
        if context.has_token_limits:
            self.reservation = await self._ledger.reserve(context.key_id, Amounts(tokens=tokens))
        slots = self._queue.acquire(context.tenant, context.priority, size, self._on_waiting)
        await self._stack.enter_async_context(slots)
        self.began_s = time.monotonic()

    async def end(self) -> None:
        """Free the request's slots in the engine."""
        await self._stack.aclose()


class RequestAccounting:
    """Tracks the requests of one replica, and replays the usage records of dead replicas."""

    def __init__(
        self,
        model: str,
        kind: ModelKind,
        queue: FairQueue,
        ledger: LedgerClient,
        *,
        recover_interval_s: float = 5.0,
    ) -> None:
        """Start on the running event loop.

        Args:
            model: id of the model that the replica serves.
            kind: the model's kind.
            queue: the slots of the replica's engine.
            ledger: a new client; it is started and shut down here.
            recover_interval_s: time between two searches for the spools of dead replicas.
        """
        self._model = model
        self._kind = kind
        self._queue = queue
        self._ledger = ledger
        self._recover_interval_s = recover_interval_s
        self._folder = find_home() / "spool"
        self._spool: Spool | None = None
        self._replays: list[_PendingReplay] = []
        ledger.on_recorded = self._forget
        ledger.start()
        self._recovering = asyncio.create_task(self._recover_loop())

    def stats(self) -> dict[str, int]:
        """Counts of open requests and records; all 0 at rest."""
        return {**self._ledger.stats(), "waiting": self._queue.waiting, "busy": self._queue.used}

    def shut_down(self) -> None:
        """Disconnect from the ledger; unconfirmed records stay on disk for another replica."""
        self._recovering.cancel()
        self._ledger.shut_down()
        if self._spool is not None:
            self._spool.shut_down()

    @asynccontextmanager
    async def track(
        self,
        request_id: str,
        context: RequestContext,
        adapter: str | None = None,
        on_waiting: Callable[[bool], None] = lambda _: None,
    ) -> AsyncIterator[AccountedRequest]:
        """Account for one request until the block ends, also by an error or cancellation.

        Args:
            request_id: for the usage record.
            context: whose request it is.
            adapter: for the usage record.
            on_waiting: told whether the request waits for its turn, as by `FairQueue.acquire`.
        """
        request = AccountedRequest(context, self._queue, self._ledger, on_waiting)
        error_code: str | None = None
        is_invalid = False
        try:
            yield request
        except BaseException as error:
            error_code = _to_code(error)
            # Some engines find out only after `begin`.
            is_invalid = isinstance(error, InvalidRequestError)
            raise
        finally:
            await request.end()
            if request.began_s is not None and not is_invalid:
                record = self._to_record(request, request_id, context, adapter, error_code)
                self._record(request, record, is_repeated=context.is_retried)
            elif request.reservation is not None:
                self._ledger.settle(request.reservation, Amounts())

    def _to_record(
        self,
        request: AccountedRequest,
        request_id: str,
        context: RequestContext,
        adapter: str | None,
        error_code: str | None,
    ) -> UsageRecord:
        now_s, began_s, first_s = time.monotonic(), request.began_s, request.first_s
        assert began_s is not None, "only requests that have begun are recorded"
        usage = request.usage
        return UsageRecord(
            id=context.usage_id or uuid.uuid4().hex,
            time_s=time.time(),
            request_id=request_id,
            key_id=context.key_id,
            tenant=context.tenant,
            user=context.user,
            endpoint=context.endpoint,
            model=self._model,
            adapter=adapter,
            kind=self._kind,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            images=request.images,
            image_steps=request.image_steps,
            image_pixel_steps=request.image_pixel_steps,
            queue_ms=(began_s - request.received_s) * 1000,
            ttft_ms=None if first_s is None else (first_s - request.received_s) * 1000,
            total_ms=(now_s - request.received_s) * 1000,
            finish_reason=None if error_code else request.finish_reason or "stop",
            error_code=error_code,
            is_streamed=context.is_streamed,
        )

    def _record(self, request: AccountedRequest, record: UsageRecord, *, is_repeated: bool) -> None:
        """Write to disk before the ledger: the response completes when this returns."""
        if self._ledger.has_ledger is False:
            return
        if self._spool is None:
            self._spool = _open(self._folder)
        if self._spool is not None:
            self._spool.append(record)
        self._ledger.finish(record, request.reservation, is_repeated=is_repeated)

    def _forget(self, ids: list[str]) -> None:
        if self._spool is not None:
            self._spool.mark_recorded(ids)
        for replay in self._replays:
            replay.confirm(ids)

    async def _recover_loop(self) -> None:
        """Find the spools of dead replicas, and send their records to the ledger."""
        while True:
            await asyncio.sleep(self._recover_interval_s)
            if not self._ledger.has_ledger:
                continue
            spools = await asyncio.to_thread(lambda: list(find_orphaned_spools(self._folder)))
            for spool in spools:
                await self._replay(spool)

    async def _replay(self, spool: OrphanedSpool) -> None:
        logger.warning("replaying %d usage records of a dead replica", len(spool.records))
        replay = _PendingReplay({record.id for record in spool.records})
        self._replays.append(replay)
        for record in spool.records:
            self._ledger.replay(record)
        await replay.is_recorded.wait()
        self._replays.remove(replay)
        spool.remove()


def _open(folder: Path) -> Spool | None:
    try:
        return Spool(folder)
    except OSError as error:
        logger.error("usage records are not kept on disk: %s", error.strerror)
        return None


def _to_code(error: BaseException) -> str:
    if isinstance(error, ApiError):
        return error.code
    # Also GeneratorExit: gRPC's servers end a call with it.
    return "internal_error" if isinstance(error, Exception) else _CANCELLED
