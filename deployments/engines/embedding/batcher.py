"""Batches of sequences from many requests, computed by one or more threads.

Whenever a thread is free, it takes the sequence whose turn it is together with waiting sequences of
similar length, from any request. So no sequence waits for a batch to fill, padding stays small, and
a request of thousands of texts does not block a request of one.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from api.ports.tenancy import RequestContext
from deployments.engines.embedding.length_buckets import LengthBuckets, WaitingSequence
from deployments.engines.round_robin import RoundRobin

if TYPE_CHECKING:
    import numpy as np

    Rows = np.ndarray

logger = logging.getLogger(__name__)

HEALTH = RequestContext(tenant="a health check", priority="high")
"""Health checks go first: a busy replica would otherwise miss them and be restarted."""

Forward = Callable[[Sequence[Any]], "Rows"]
"""One forward pass: B sequences → (B, …). Called by several threads at once."""

Prepare = Callable[[int, bool], object]
"""Called by a thread before each pass: tokens of the batch, and whether no other work exists."""


@dataclass(slots=True, eq=False)
class _Job:
    """The sequences of one request."""

    sequences: Sequence[Sized]
    context: RequestContext
    loop: asyncio.AbstractEventLoop
    done: "asyncio.Future[Rows]"
    remaining: int
    """Sequences without a result."""
    waiting: list[WaitingSequence] = field(default_factory=list)
    """Sequences that no thread has taken, shortest first."""
    rows: "Rows | None" = None

    def put(self, numbers: list[int], rows: "Rows") -> None:
        """Store the results of the sequences `numbers`."""
        import numpy as np

        if self.rows is None:
            self.rows = np.empty((len(self.sequences), *rows.shape[1:]), rows.dtype)
        self.rows[numbers] = rows
        self.remaining -= len(numbers)


class Batcher:
    """Worker threads and the sequences that wait for them."""

    def __init__(
        self,
        forward: Forward,
        max_batch_tokens: int,
        threads: int = 1,
        prepare: Prepare = lambda tokens, is_alone: None,
    ) -> None:
        """Start the threads.

        Args:
            forward: computes a batch.
            max_batch_tokens: limit of one batch, padding included.
            threads: how many batches are computed at once.
            prepare: called before each batch, by the thread that computes it.
        """
        self._forward = forward
        self._prepare = prepare
        self._buckets = LengthBuckets(max_batch_tokens)
        self._turns: RoundRobin[_Job] = RoundRobin()
        self._changed = threading.Condition()
        self._is_open = True
        self._running = 0
        self._threads = [
            threading.Thread(target=self._run, name=f"encoder-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def run(
        self, sequences: Sequence[Sized], context: RequestContext | None = None
    ) -> "Rows":
        """Compute all sequences: (N, …), in the order of `sequences`.

        Cancelling this call removes its waiting sequences; other requests are not affected.

        Raises:
            Exception: what `forward` raises for the sequences of this request alone.
            RuntimeError: the batcher has been shut down.
        """
        loop = asyncio.get_running_loop()
        job = _Job(
            sequences, context or RequestContext(), loop, loop.create_future(), len(sequences)
        )
        with self._changed:
            if not self._is_open or not all(thread.is_alive() for thread in self._threads):
                raise RuntimeError("the batcher has been shut down")
            job.waiting = self._buckets.add(job, sequences)
            self._turns.add(job, job.context.priority, job.context.tenant)
            self._changed.notify()
        try:
            return await job.done
        finally:
            with self._changed:
                self._discard(job)

    def shut_down(self) -> None:
        """Stop the threads after their current batch; later calls of `run` fail."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()

    def _discard(self, job: _Job) -> None:
        """Remove the sequences that no thread has taken."""
        if job.waiting:
            self._buckets.discard(job.waiting)
            job.waiting = []
        self._turns.discard(job)

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            batch, is_alone = taken
            self._prepare(max(each.length for each in batch) * len(batch), is_alone)
            self._compute(batch)
            with self._changed:
                self._running -= 1
            del taken, batch  # else the last result stays in memory until the next request

    def _take(self) -> tuple[list[WaitingSequence], bool] | None:
        """Wait for a batch; return it and whether no other work exists. None after shutdown."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._buckets) or not self._is_open)
            if not self._is_open:
                return None
            job = self._turns.next()
            batch = self._buckets.pop_bucket(job.waiting[-1])
            for owner, numbers in _group_by_owner(batch):
                taken = set(numbers)
                owner.waiting = [each for each in owner.waiting if each.number not in taken]
                if not owner.waiting:
                    self._turns.discard(owner)
            is_alone = not self._running and not len(self._buckets)
            self._running += 1
            if len(self._buckets):
                self._changed.notify()  # a request of many batches notifies only once
            return batch, is_alone

    def _compute(self, batch: list[WaitingSequence]) -> None:
        """Compute a batch; if that fails, compute each request by itself to isolate the failure."""
        parts = _group_by_owner(batch)
        try:
            rows = self._forward([each.owner.sequences[each.number] for each in batch])
        except Exception as error:
            if len(parts) == 1:
                self._finish([(parts[0][0], error)])
                return
            logger.warning("a batch of %d requests failed; each is tried alone", len(parts))
            for owner, _ in parts:
                self._compute([each for each in batch if each.owner is owner])
            return
        indices: dict[Any, list[int]] = {}
        for index, each in enumerate(batch):
            indices.setdefault(each.owner, []).append(index)
        with self._changed:  # another thread may store other rows of the same request
            for owner, numbers in parts:
                owner.put(numbers, rows[indices[owner]])
            complete = [owner for owner, _ in parts if not owner.remaining]
        self._finish([(owner, None) for owner in complete])

    def _finish(self, finished: list[tuple[_Job, Exception | None]]) -> None:
        for loop in {job.loop for job, _ in finished}:
            of_loop = [(job, error) for job, error in finished if job.loop is loop]
            try:
                loop.call_soon_threadsafe(_resolve, of_loop)
            except RuntimeError:  # the loop is closed
                logger.info("%d results were dropped: their event loop is closed", len(of_loop))


def _resolve(finished: list[tuple[_Job, Exception | None]]) -> None:
    for job, error in finished:
        if job.done.done():
            continue  # cancelled
        if error is not None:
            job.done.set_exception(error)
        else:
            assert job.rows is not None, "all of it has been computed"
            job.done.set_result(job.rows)


def _group_by_owner(batch: Sequence[WaitingSequence]) -> list[tuple[Any, list[int]]]:
    """Each request with the numbers of its sequences in the batch."""
    numbers: dict[Any, list[int]] = {}
    for each in batch:
        numbers.setdefault(each.owner, []).append(each.number)
    return list(numbers.items())
