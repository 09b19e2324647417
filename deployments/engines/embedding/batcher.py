"""Sequences of many requests, computed together by one thread, or a few.

Whenever a thread is free it takes what waits: the sequence whose turn it is, and those of nearly
its length, whoever asked for them. So nothing waits for a batch to fill, nobody is padded to the
longest stranger, and one request of thousands of texts does not stand before one of a single text.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deployments.engines.embedding.length_buckets import Waiting, WaitingSequence
from deployments.engines.embedding.round_robin import Rotation

if TYPE_CHECKING:
    import numpy as np

    Rows = np.ndarray

from api.ports.tenancy import RequestContext

logger = logging.getLogger(__name__)

HEALTH = RequestContext(tenant="a health check", priority="high")
"""Checks come before what waits: else those that are most asked of would pass for dead."""

Forward = Callable[[Sequence[Any]], "Rows"]
"""One pass over one batch: sequences → (B, …). Called by several threads at once."""

Prepare = Callable[[int, bool], object]
"""Called by a thread before each pass: how many tokens, and whether there is no other work."""


@dataclass(slots=True, eq=False)
class _Job:
    """The sequences of one request."""

    sequences: Sequence[Sized]
    context: RequestContext
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[Rows]"
    left: int
    entries: list[WaitingSequence] = field(default_factory=list)
    """Those that have not been started, longest last."""
    rows: "Rows | None" = None

    def put(self, numbers: list[int], rows: "Rows") -> None:
        """Take in the rows of some of the sequences."""
        import numpy as np

        if self.rows is None:
            self.rows = np.empty((len(self.sequences), *rows.shape[1:]), rows.dtype)
        self.rows[numbers] = rows
        self.left -= len(numbers)


class Batcher:
    """The threads, and what waits for them."""

    def __init__(
        self,
        forward: Forward,
        max_batch_tokens: int,
        threads: int = 1,
        prepare: Prepare = lambda tokens, is_alone: None,
    ) -> None:
        """Compute by `forward`, at most so many tokens in a batch, padding included.

        Args:
            forward: computes a batch.
            max_batch_tokens: of one batch.
            threads: batches that are computed at once.
            prepare: readies a thread for a batch.
        """
        self._forward = forward
        self._prepare = prepare
        self._waiting = Waiting(max_batch_tokens)
        self._turns: Rotation[_Job] = Rotation()
        self._changed = threading.Condition()
        self._is_open = True
        self._under_way = 0
        self._threads = [
            threading.Thread(target=self._run, name=f"encoder-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def run(
        self, sequences: Sequence[Sized], context: RequestContext | None = None
    ) -> "Rows":
        """Compute all sequences: (N, …), in their order.

        Cancelling this call drops those that have not been started; the others of their batches
        never notice.

        Raises:
            Exception: whatever `forward` raises for these sequences alone.
            RuntimeError: it has been shut down.
        """
        loop = asyncio.get_running_loop()
        job = _Job(
            sequences, context or RequestContext(), loop, loop.create_future(), len(sequences)
        )
        with self._changed:
            if not self._is_open or not all(thread.is_alive() for thread in self._threads):
                raise RuntimeError("the batcher has been shut down")
            job.entries = self._waiting.add(job, sequences)
            self._turns.add(job, job.context.priority, job.context.tenant)
            self._changed.notify()
        try:
            return await job.done
        finally:
            with self._changed:
                self._drop(job)

    def shut_down(self) -> None:
        """Take no more work."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()

    def _drop(self, job: _Job) -> None:
        """Forget what has not been started."""
        if job.entries:
            self._waiting.discard(job.entries)
            job.entries = []
        self._turns.discard(job)

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            batch, is_alone = taken
            self._prepare(max(each.length for each in batch) * len(batch), is_alone)
            self._compute(batch)
            with self._changed:
                self._under_way -= 1
            del taken, batch  # or the last answer would stay in memory until the next request

    def _take(self) -> tuple[list[WaitingSequence], bool] | None:
        """Wait for work, and tell whether there is no other; None once it is over."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) or not self._is_open)
            if not self._is_open:
                return None
            job = self._turns.next()
            batch = self._waiting.take_around(job.entries[-1])
            for owner, numbers in _by_owner(batch):
                taken = set(numbers)
                owner.entries = [each for each in owner.entries if each.number not in taken]
                if not owner.entries:
                    self._turns.discard(owner)
            is_alone = not self._under_way and not len(self._waiting)
            self._under_way += 1
            if len(self._waiting):
                self._changed.notify()  # a request of many batches came with one notice
            return batch, is_alone

    def _compute(self, batch: list[WaitingSequence]) -> None:
        """Compute one batch; if that fails, each request's part by itself, so that one fails."""
        parts = _by_owner(batch)
        try:
            rows = self._forward([each.owner.sequences[each.number] for each in batch])
        except Exception as error:
            if len(parts) == 1:
                self._end([(parts[0][0], error)])
                return
            logger.warning("a batch of %d requests failed; each is tried alone", len(parts))
            for owner, _ in parts:
                self._compute([each for each in batch if each.owner is owner])
            return
        places: dict[Any, list[int]] = {}
        for place, each in enumerate(batch):
            places.setdefault(each.owner, []).append(place)
        with self._changed:  # another thread may have others of the same request
            for owner, numbers in parts:
                owner.put(numbers, rows[places[owner]])
            whole = [owner for owner, _ in parts if not owner.left]
        self._end([(owner, None) for owner in whole])

    def _end(self, ended: list[tuple[_Job, Exception | None]]) -> None:
        for loop in {job.loop for job, _ in ended}:
            mine = [(job, error) for job, error in ended if job.loop is loop]
            try:
                loop.call_soon_threadsafe(_tell, mine)
            except RuntimeError:  # the loop is closed: nobody waits
                logger.info("nobody waits for %d answers any more", len(mine))


def _tell(ended: list[tuple[_Job, Exception | None]]) -> None:
    for job, error in ended:
        if job.done.done():
            continue  # cancelled
        if error is not None:
            job.done.set_exception(error)
        else:
            assert job.rows is not None, "all of it has been computed"
            job.done.set_result(job.rows)


def _by_owner(batch: Sequence[WaitingSequence]) -> list[tuple[Any, list[int]]]:
    """Each request with the numbers of its sequences in the batch."""
    numbers: dict[Any, list[int]] = {}
    for each in batch:
        numbers.setdefault(each.owner, []).append(each.number)
    return list(numbers.items())
