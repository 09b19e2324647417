"""Small images overtake large ones between two steps, and only as far as the large ones get on."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest

from api.errors import EngineError
from deployments.engines.cancellable_thread import WorkCancelledError
from deployments.engines.diffusion.batcher import ImageBatcher
from deployments.engines.diffusion.image_job import ImageJob
from deployments.engines.diffusion.overtaking import RunningBatch
from deployments.engines.stall_watch import StallWatch
from tests.helpers.image_batches import IMAGE, SETTINGS, TIMEOUT_S, make_job, queued, start

LARGE = replace(SETTINGS, width_px=80, steps_taken=4)  # 640 pixel-steps a step, 2560 in all
SMALL = replace(SETTINGS, steps_taken=2)  # 128 in all
MEDIUM = replace(SETTINGS, width_px=40, steps_taken=4)  # 320 a step, 1280 in all


class SteppingPipeline:
    """Takes each step when the test releases it, and logs the seeds of the images."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        """Seed of the first image of the batch that took the step."""
        self.bad_seed: int | None = None
        self.has_begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def run(self, batch: Sequence[ImageJob], between_steps: Callable[[], None]) -> None:
        self.has_begun.release()
        for step in range(1, batch[0].settings.steps_taken + 1):
            assert self.go.acquire(timeout=TIMEOUT_S)
            if all(job.is_cancelled for job in batch):
                raise WorkCancelledError
            if self.bad_seed in [job.seed for job in batch]:
                raise RuntimeError("bad seed")
            self.steps.append(batch[0].seed)
            for job in batch:
                job.record_step(step)
            between_steps()
        for job in batch:
            job.steps_done = job.seed  # the helper tells finished images apart by it
            job.finish(IMAGE)

    async def begun(self) -> None:
        assert await asyncio.to_thread(self.has_begun.acquire, timeout=TIMEOUT_S)


@pytest.fixture
def stepping() -> SteppingPipeline:
    return SteppingPipeline()


@pytest.fixture
async def batcher(
    stepping: SteppingPipeline, stall_watch: StallWatch
) -> AsyncIterator[ImageBatcher]:
    batcher = ImageBatcher(stepping.run, 4, 10_000, 0.0, stall_watch)
    yield batcher
    stepping.go.release(100)
    batcher.shut_down()


async def test_small_image_is_generated_between_two_steps_of_a_large_one(
    stepping: SteppingPipeline, batcher: ImageBatcher
) -> None:
    large = start(batcher, make_job(1, LARGE))
    await stepping.begun()
    small = start(batcher, make_job(2, SMALL))
    await queued(batcher, 1)

    stepping.go.release(3)

    assert await small == [2]
    assert stepping.steps == [1, 2, 2]
    stepping.go.release(3)
    assert await large == [1]
    assert stepping.steps == [1, 2, 2, 1, 1, 1]


@pytest.mark.parametrize("other", [LARGE, replace(LARGE, width_px=160), replace(LARGE, steps=9)])
async def test_image_that_takes_no_less_waits_for_the_end(
    stepping: SteppingPipeline, batcher: ImageBatcher, other: object
) -> None:
    first = start(batcher, make_job(1, LARGE))
    await stepping.begun()
    second = start(batcher, make_job(2, other))
    await queued(batcher, 1)

    stepping.go.release(20)

    assert await asyncio.gather(first, second) == [[1], [2]]
    assert stepping.steps == [1, 1, 1, 1, 2, 2, 2, 2]


async def test_image_waits_for_as_much_work_of_a_larger_one_as_it_takes_itself(
    stepping: SteppingPipeline, batcher: ImageBatcher
) -> None:
    large = start(batcher, make_job(1, replace(LARGE, steps_taken=6)))
    await stepping.begun()
    medium = start(batcher, make_job(2, MEDIUM))
    small = start(batcher, make_job(3, SMALL))
    await queued(batcher, 2)

    stepping.go.release(20)
    await asyncio.gather(large, medium, small)

    # After three steps the large image is 1920 pixel-steps ahead: enough for 128 and 1280.
    assert stepping.steps == [1, 3, 3, 1, 1, 2, 2, 2, 2, 1, 1, 1]


async def test_flood_of_small_images_takes_at_most_every_second_pixel_step(
    stepping: SteppingPipeline, batcher: ImageBatcher
) -> None:
    large = start(batcher, make_job(1, LARGE))
    await stepping.begun()
    flood = [start(batcher, make_job(seed, SMALL)) for seed in range(2, 60)]
    await queued(batcher, len(flood))

    stepping.go.release(200)
    await large
    steps = list(stepping.steps)
    await asyncio.gather(*flood)

    assert steps.count(1) == 4
    assert stepping.steps.index(1, 1) <= 1 + 5 * 2  # five small images are one step of the large


async def test_overtaking_image_may_be_overtaken(
    stepping: SteppingPipeline, batcher: ImageBatcher
) -> None:
    large = start(batcher, make_job(1, replace(LARGE, steps_taken=5)))
    await stepping.begun()
    medium = start(batcher, make_job(2, MEDIUM))
    await queued(batcher, 1)
    stepping.go.release(2)
    await stepping.begun()
    small = start(batcher, make_job(3, SMALL))
    await queued(batcher, 1)

    stepping.go.release(20)

    assert await asyncio.gather(large, medium, small) == [[1], [2], [3]]
    assert stepping.steps == [1, 1, 2, 3, 3, 2, 2, 2, 1, 1, 1]


async def test_failure_of_an_overtaking_image_is_its_own(
    stepping: SteppingPipeline, batcher: ImageBatcher
) -> None:
    stepping.bad_seed = 2
    large = start(batcher, make_job(1, LARGE))
    await stepping.begun()
    bad, good = start(batcher, make_job(2, SMALL)), start(batcher, make_job(3, SMALL))
    await queued(batcher, 2)

    stepping.go.release(20)

    assert await asyncio.gather(large, good) == [[1], [3]]
    with pytest.raises(EngineError):
        await bad


async def test_cancelled_large_image_ends_after_the_image_that_overtakes_it(
    stepping: SteppingPipeline, batcher: ImageBatcher
) -> None:
    large = start(batcher, make_job(1, LARGE))
    await stepping.begun()
    small = start(batcher, make_job(2, SMALL))
    await queued(batcher, 1)
    stepping.go.release(1)
    await stepping.begun()

    large.cancel()
    await asyncio.wait({large})
    stepping.go.release(20)

    assert await small == [2]
    assert await start(batcher, make_job(3, SMALL)) == [3]
    assert stepping.steps == [1, 2, 2, 3, 3]


async def test_small_image_cancelled_while_it_waits_overtakes_nothing(
    stepping: SteppingPipeline, batcher: ImageBatcher
) -> None:
    large = start(batcher, make_job(1, LARGE))
    await stepping.begun()
    small = start(batcher, make_job(2, SMALL))
    await queued(batcher, 1)

    small.cancel()
    await asyncio.wait({small})
    stepping.go.release(20)

    assert await large == [1]
    assert stepping.steps == [1, 1, 1, 1]


def test_work_between_the_steps_counts_as_the_batchs_own() -> None:
    jobs = [make_job(seed, LARGE) for seed in range(2)]
    running = RunningBatch(jobs)
    for job in jobs:
        job.record_step(1)
    running.overtaken_by = 128

    assert running.cost == 2 * 640 + 128
