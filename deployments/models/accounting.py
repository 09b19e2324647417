"""Where a replica takes requests in: limits, turns, and the record of what each one took."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from api.errors import ApiError, InvalidRequestError
from api.ports.rate_limits import Amounts
from api.ports.tenancy import ModelKind, RequestContext
from deployments.engines.protocol import RequestProgress
from deployments.home import find_home
from deployments.ledger.address import find_ledger
from deployments.ledger.client import HeldReservation, LedgerClient
from deployments.ledger.records import UsageRecord
from deployments.ledger.spool import OrphanedSpool, Spool, find_orphaned_spools
from deployments.models.fair_queue import FairQueue

logger = logging.getLogger(__name__)

_SWEEP_S = 5.0
_CANCELLED = "cancelled"
"""The error code of requests whose client left, or whose time was up."""


class _PendingReplay:
    """What another replica has left, and the ledger has not confirmed yet."""

    def __init__(self, ids: set[str]) -> None:
        self._ids = ids
        self.is_recorded = asyncio.Event()
        self.note([])

    def note(self, ids: Iterable[str]) -> None:
        self._ids.difference_update(ids)
        if not self._ids:
            self.is_recorded.set()


class AccountedRequest(RequestProgress):
    """One request: reserves its tokens, waits its turn, and knows when what happened."""

    def __init__(self, context: RequestContext, queue: FairQueue, link: LedgerClient) -> None:
        """Take in a request that has just arrived."""
        super().__init__()
        self.received_s = time.monotonic()
        self.began_s: float | None = None
        self.first_s: float | None = None
        self.finish_reason: str | None = None
        self.held: HeldReservation | None = None
        self._origin = context
        self._queue = queue
        self._link = link
        self._stack = AsyncExitStack()

    async def begin(self, tokens: int, size: int = 1) -> None:
        """Reserve, then wait."""
        context = self._origin
        if context.has_token_limits:
            self.held = await self._link.reserve(context.key_id, Amounts(tokens=tokens))
        turn = self._queue.turn(context.tenant, context.priority, size)
        await self._stack.enter_async_context(turn)
        self.began_s = time.monotonic()

    async def end(self) -> None:
        """Give the place in the engine to the next one."""
        await self._stack.aclose()


class RequestAccounting:
    """The requests of one replica."""

    def __init__(self, model: str, kind: ModelKind, queue: FairQueue) -> None:
        """Serve the model of that id; on the event loop that will use it."""
        self._model = model
        self._kind = kind
        self._queue = queue
        self._folder = find_home() / "spool"
        self._spool: Spool | None = None
        self._link = LedgerClient(find_ledger)
        self._link.on_recorded = self._forget
        self._left_behind: list[_PendingReplay] = []
        self._link.start()
        self._recovering = asyncio.create_task(self._recover_loop())

    def stats(self) -> dict[str, int]:
        """What is open; all 0 at rest."""
        return {**self._link.stats(), "waiting": self._queue.waiting, "busy": self._queue.taken}

    def shut_down(self) -> None:
        """Leave the ledger, and to others what it has not got."""
        self._recovering.cancel()
        self._link.shut_down()
        if self._spool is not None:
            self._spool.shut_down()

    @asynccontextmanager
    async def track(
        self, request_id: str, context: RequestContext, adapter: str | None = None
    ) -> AsyncIterator[AccountedRequest]:
        """Account for one request for as long as the block lasts, however it ends."""
        work = AccountedRequest(context, self._queue, self._link)
        error_code: str | None = None
        is_refused = False
        try:
            yield work
        except BaseException as error:
            error_code = _to_code(error)
            is_refused = isinstance(
                error, InvalidRequestError
            )  # some engines look closely only then
            raise
        finally:
            await work.end()
            if work.began_s is not None and not is_refused:
                self._record(work, self._to_record(work, request_id, context, adapter, error_code))
            elif work.held is not None:
                self._link.settle(work.held, Amounts())

    def _to_record(
        self,
        work: AccountedRequest,
        request_id: str,
        context: RequestContext,
        adapter: str | None,
        error_code: str | None,
    ) -> UsageRecord:
        now_s, began_s, first_s = time.monotonic(), work.began_s, work.first_s
        assert began_s is not None, "it has begun"
        usage = work.usage
        return UsageRecord(
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
            images=work.images,
            image_steps=work.image_steps,
            image_pixel_steps=work.image_pixel_steps,
            queue_ms=(began_s - work.received_s) * 1000,
            ttft_ms=None if first_s is None else (first_s - work.received_s) * 1000,
            total_ms=(now_s - work.received_s) * 1000,
            finish_reason=None if error_code else work.finish_reason or "stop",
            error_code=error_code,
            is_streamed=context.is_streamed,
        )

    def _record(self, work: AccountedRequest, record: UsageRecord) -> None:
        """On disk first: the answer goes out when this returns."""
        if self._link.has_ledger is False:
            return
        if self._spool is None:
            self._spool = _open(self._folder)
        if self._spool is not None:
            self._spool.keep(record)
        self._link.finish(record, work.held)

    def _forget(self, ids: list[str]) -> None:
        if self._spool is not None:
            self._spool.forget(ids)
        for left in self._left_behind:
            left.note(ids)

    async def _recover_loop(self) -> None:
        """Bring the ledger what replicas that are gone have left."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            if not self._link.has_ledger:
                continue
            try:
                orphans = await asyncio.to_thread(lambda: list(find_orphaned_spools(self._folder)))
            except OSError as error:
                logger.error("the spool cannot be read: %s", error.strerror)
                continue
            for spool in orphans:
                await self._replay(spool)

    async def _replay(self, spool: OrphanedSpool) -> None:
        logger.warning("a replica left %d usage records", len(spool.records))
        left = _PendingReplay({record.id for record in spool.records})
        self._left_behind.append(left)
        for record in spool.records:
            self._link.repeat(record)
        await left.is_recorded.wait()
        self._left_behind.remove(left)
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
