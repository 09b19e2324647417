"""Generates images of many requests in batches, one batch at a time, in a thread.

Images of equal settings form a batch. The oldest waiting image decides which settings are next, so
none is starved, and no image waits for a batch to fill. The one exception: clients whose images
were in the last batch are likely to ask again, and are waited for, but only for a short window.

Between two steps of a batch, smaller images may be generated first; see `overtaking`.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence

from api.errors import ApiError, EngineError
from deployments.engines.cancellable_thread import CancellableThread, WorkCancelledError
from deployments.engines.diffusion.image_job import ImageEvent, ImageJob
from deployments.engines.diffusion.overtaking import RunningBatch
from deployments.engines.stall_watch import StallWatch

logger = logging.getLogger(__name__)

RunBatch = Callable[[Sequence[ImageJob], Callable[[], None]], None]
"""Generates all images of a batch, skips cancelled jobs, and lets each job emit its events.

It calls its second argument between two steps, which may call it again for another batch.
"""


class ImageBatcher:
    """A queue of images, and a thread that generates them in batches."""

    def __init__(
        self,
        run_batch: RunBatch,
        max_images: int,
        max_pixels: int,
        window_s: float,
        stall_watch: StallWatch,
    ) -> None:
        """Start no thread before the first image.

        Args:
            run_batch: runs in the thread.
            max_images: limit of images per batch.
            max_pixels: limit of pixels per batch, all images together; a larger image is alone.
            window_s: how long to wait for clients of the last batch to ask again.
            stall_watch: is told of batches and their steps.
        """
        self._run_batch = run_batch
        self._max_images = max_images
        self._max_pixels = max_pixels
        self._window_s = window_s
        self._stall_watch = stall_watch
        self._thread = CancellableThread("diffusion")
        self._waiting: deque[ImageJob] = deque()
        self._lock = threading.Lock()
        """Held while `_waiting` changes or is searched: the thread takes images out of it too."""
        self._arrival = asyncio.Event()
        self._last_batch_size = 0
        """Images of the last batch and those that waited behind it."""
        self._running: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Number of images that wait."""
        return len(self._waiting)

    async def generate(self, jobs: Sequence[ImageJob]) -> AsyncGenerator[ImageEvent]:
        """Generate the images of one request; closing the iterator cancels its jobs.

        Raises:
            ApiError: one of the images failed.
        """
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[ImageEvent | BaseException] = asyncio.Queue()
        for job in jobs:
            job.emit = lambda event: loop.call_soon_threadsafe(events.put_nowait, event)
            job.on_step = self._stall_watch.record_progress
        self._add(jobs)
        unfinished = len(jobs)
        try:
            while unfinished:
                event = await events.get()
                if isinstance(event, BaseException):
                    raise event
                unfinished -= event.is_final
                yield event
        finally:
            for job in jobs:
                job.is_cancelled = True
            with self._lock:
                self._waiting = deque(job for job in self._waiting if not job.is_cancelled)

    def shut_down(self) -> None:
        """Start no further batch."""
        if self._running is not None:
            self._running.cancel()
        self._thread.shut_down()

    def _add(self, jobs: Sequence[ImageJob]) -> None:
        with self._lock:
            self._waiting.extend(jobs)
        self._arrival.set()
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Run batches until no image waits."""
        self._arrival = asyncio.Event()
        while self._waiting:
            await self._wait_for_arrivals()
            batch = self._take_batch()
            if batch:
                await self._run_in_thread(batch)
                self._last_batch_size = len(batch) + len(self._waiting)

    async def _wait_for_arrivals(self) -> None:
        """Wait until clients of the last batch have asked again; a single client never waits."""
        expected = min(self._last_batch_size, self._max_images)
        try:
            async with asyncio.timeout(self._window_s):
                while 0 < len(self._waiting) < expected:
                    self._arrival.clear()
                    await self._arrival.wait()
        except TimeoutError:
            return

    def _take_batch(self, running: RunningBatch | None = None) -> list[ImageJob]:
        """Remove the oldest image from the queue, and those that fit into its batch.

        Args:
            running: takes images only that may overtake this batch.
        """
        batch: list[ImageJob] = []
        rest: deque[ImageJob] = deque()
        with self._lock:
            for job in self._waiting:
                fits = self._fits(job, batch)
                if fits and running is not None:
                    fits = running.may_be_overtaken_by([*batch, job])
                (batch if fits else rest).append(job)
            self._waiting = rest
        return batch

    def _fits(self, job: ImageJob, batch: Sequence[ImageJob]) -> bool:
        if not batch:
            return True
        settings = batch[0].settings
        pixels = settings.pixels * (len(batch) + 1)
        has_room = len(batch) < self._max_images and pixels <= self._max_pixels
        return has_room and job.settings == settings

    async def _run_in_thread(self, batch: Sequence[ImageJob]) -> None:
        with self._stall_watch.working():
            await self._thread.run(lambda _: self._generate_batch(batch))

    # The methods below run in the thread.

    def _generate_batch(self, batch: Sequence[ImageJob]) -> int:
        """Run a batch; if it fails, run each image alone, so that only the cause fails.

        Returns:
            The pixel-steps that were taken.
        """
        failure, cost = self._try_batch(batch)
        if failure is None:
            return cost
        if len(batch) == 1:
            batch[0].emit(failure)
            return cost
        logger.warning("a batch of %d images failed; each is generated alone", len(batch))
        return cost + sum(self._generate_batch([job]) for job in batch if not job.is_cancelled)

    def _try_batch(self, batch: Sequence[ImageJob]) -> tuple[ApiError | None, int]:
        """Run a batch.

        Returns:
            Its error, which is None if it succeeded or all jobs are cancelled; and the pixel-steps
            that were taken.
        """
        running = RunningBatch(batch)
        failure: ApiError | None = None
        try:
            if not all(job.is_cancelled for job in batch):
                self._run_batch(batch, lambda: self._let_overtake(running))
        except WorkCancelledError:
            pass
        except ApiError as error:
            failure = error
        except Exception:  # the library's own, of any type
            logger.exception("a batch of %d images failed", len(batch))
            failure = EngineError("The model failed to generate this image.")
        return failure, running.cost

    def _let_overtake(self, running: RunningBatch) -> None:
        """Generate the waiting images that may overtake a batch, between two of its steps."""
        while batch := self._take_batch(running):
            running.overtaken_by += self._generate_batch(batch)
