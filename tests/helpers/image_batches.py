"""A pipeline that a test steps through, and requests for it."""

import asyncio
import threading
from collections.abc import Callable, Sequence

from PIL import Image

from deployments.engines.cancellable_thread import WorkCancelledError
from deployments.engines.diffusion.batch_settings import BatchSettings
from deployments.engines.diffusion.batcher import ImageBatcher
from deployments.engines.diffusion.image_job import ImageEvent, ImageJob

SETTINGS = BatchSettings("text2img", 8, 8, 4, 4, 1.0)
TIMEOUT_S = 5.0
IMAGE = Image.new("RGB", (8, 8))


class FakePipeline:
    """Generates in steps that the test releases, and records the batches.

    The step count of a finished image is its seed, so that a test can tell images apart.
    """

    def __init__(self) -> None:
        self.batches: list[list[ImageJob]] = []
        self.has_begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.error: Exception | None = None
        self.bad_seed: int | None = None
        """A batch with this seed fails."""
        self.bad_error: Exception = RuntimeError("bad seed")

    def run(self, batch: Sequence[ImageJob], between_steps: Callable[[], None]) -> None:
        self.batches.append(list(batch))
        self.has_begun.release()
        self.go.acquire(timeout=TIMEOUT_S)
        if self.error is not None:
            raise self.error
        if all(job.is_cancelled for job in batch):
            raise WorkCancelledError
        for job in batch:
            job.record_step(1)
            job.report_step(IMAGE if job.wants_preview else None)
        between_steps()
        if self.bad_seed in [job.seed for job in batch]:
            raise self.bad_error
        for job in batch:
            job.emit(ImageEvent(job.index, job.seed, IMAGE, is_final=True))

    @property
    def seeds(self) -> list[list[int]]:
        return [[job.seed for job in batch] for batch in self.batches]

    async def begun(self) -> None:
        """Wait until the next batch has begun."""
        assert await asyncio.to_thread(self.has_begun.acquire, timeout=TIMEOUT_S)


class Clock:
    """A clock that the test moves."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def make_job(seed: int, settings: BatchSettings = SETTINGS, index: int = 0) -> ImageJob:
    return ImageJob(index, settings, "a dot", None, seed, wants_progress=True)


async def generate(batcher: ImageBatcher, *jobs: ImageJob) -> list[int]:
    """Generate one request's images, and return their seeds."""
    events = [event async for event in batcher.generate(jobs)]
    return [event.step for event in events if event.is_final]


def start(batcher: ImageBatcher, *jobs: ImageJob) -> "asyncio.Task[list[int]]":
    return asyncio.create_task(generate(batcher, *jobs))


async def queued(batcher: ImageBatcher, count: int) -> None:
    """Wait until `count` images wait."""
    async with asyncio.timeout(TIMEOUT_S):
        while batcher.waiting < count:  # noqa: ASYNC110  # other tasks add them
            await asyncio.sleep(0)
