import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from PIL import Image

from api.errors import EngineError, InvalidRequestError, ReplicaLostError
from api.ports.images import Lora
from deployments.engines.cancellable_thread import WorkCancelledError
from deployments.engines.diffusion.batch_settings import BatchSettings
from deployments.engines.diffusion.batcher import ImageBatcher
from deployments.engines.diffusion.image_job import ImageEvent, ImageJob
from deployments.engines.stall_watch import StallWatch

SETTINGS = BatchSettings("text2img", 8, 8, 4, 4, 1.0)
WINDOW_S = 0.02
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

    def run(self, batch: Sequence[ImageJob]) -> None:
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


@pytest.fixture
def pipeline() -> FakePipeline:
    return FakePipeline()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stall_watch(clock: Clock) -> StallWatch:
    return StallWatch(10.0, clock)


@pytest.fixture
async def batcher(pipeline: FakePipeline, stall_watch: StallWatch) -> AsyncIterator[ImageBatcher]:
    batcher = ImageBatcher(pipeline.run, 4, 8 * 8 * 4, WINDOW_S, stall_watch)
    yield batcher
    pipeline.go.release(50)
    batcher.shut_down()


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


async def test_steps_and_the_finished_image_are_emitted(
    pipeline: FakePipeline, batcher: ImageBatcher
) -> None:
    pipeline.go.release()

    events = [event async for event in batcher.generate([make_job(7)])]

    assert events == [ImageEvent(0, 1), ImageEvent(0, 7, IMAGE, is_final=True)]


async def test_batch_without_a_step_stalls_until_it_makes_one(
    pipeline: FakePipeline, batcher: ImageBatcher, stall_watch: StallWatch, clock: Clock
) -> None:
    job = make_job(7)
    task = start(batcher, job)
    await pipeline.begun()
    stall_watch.check()
    clock.now_s += 11
    with pytest.raises(ReplicaLostError):
        stall_watch.check()

    job.record_step(1)
    stall_watch.check()
    clock.now_s += 11
    with pytest.raises(ReplicaLostError):
        stall_watch.check()
    pipeline.go.release()
    await task
    clock.now_s += 11

    stall_watch.check()  # no batch is under way


async def test_next_batch_does_not_inherit_the_stall_of_the_last(
    pipeline: FakePipeline, batcher: ImageBatcher, stall_watch: StallWatch, clock: Clock
) -> None:
    task = start(batcher, make_job(1), make_job(2, replace(SETTINGS, steps=5)))
    await pipeline.begun()
    clock.now_s += 11
    pipeline.go.release()
    await pipeline.begun()

    stall_watch.check()

    pipeline.go.release()
    await task


async def test_waiting_images_form_a_batch(pipeline: FakePipeline, batcher: ImageBatcher) -> None:
    first = start(batcher, make_job(1))
    await pipeline.begun()
    others = [start(batcher, make_job(seed)) for seed in (2, 3)]
    await queued(batcher, 2)

    pipeline.go.release(2)

    assert await asyncio.gather(first, *others) == [[1], [2], [3]]
    assert pipeline.seeds == [[1], [2, 3]]


@pytest.mark.parametrize(
    "other",
    [
        replace(SETTINGS, steps=5),
        replace(SETTINGS, width_px=16),
        replace(SETTINGS, guidance=2.0),
        replace(SETTINGS, scheduler="DDIMScheduler"),
        replace(SETTINGS, mode="img2img"),
        replace(SETTINGS, strength=0.5),
        replace(SETTINGS, has_negative=True),
        replace(SETTINGS, loras=(Lora("ink"),)),
        replace(SETTINGS, loras=(Lora("ink", 0.5),)),
    ],
)
async def test_images_of_other_settings_are_in_another_batch(
    pipeline: FakePipeline, batcher: ImageBatcher, other: BatchSettings
) -> None:
    task = start(batcher, make_job(1), make_job(2, other), make_job(3))
    await pipeline.begun()

    pipeline.go.release(2)
    await task

    assert pipeline.seeds == [[1, 3], [2]]


async def test_batch_never_exceeds_its_number_of_images(
    pipeline: FakePipeline, batcher: ImageBatcher
) -> None:
    task = start(batcher, *(make_job(seed, index=seed) for seed in range(10)))
    pipeline.go.release(3)

    assert sorted(await task) == list(range(10))
    assert list(map(len, pipeline.seeds)) == [4, 4, 2]


async def test_batch_never_exceeds_its_pixels(
    pipeline: FakePipeline, batcher: ImageBatcher
) -> None:
    large = replace(SETTINGS, width_px=16)
    task = start(batcher, *(make_job(seed, large, seed) for seed in range(3)))
    pipeline.go.release(2)
    await task

    assert list(map(len, pipeline.seeds)) == [2, 1]


async def test_image_above_the_pixel_limit_is_alone(
    pipeline: FakePipeline, batcher: ImageBatcher
) -> None:
    huge = replace(SETTINGS, width_px=800)
    task = start(batcher, make_job(0, huge), make_job(1, huge))
    pipeline.go.release(2)
    await task

    assert pipeline.seeds == [[0], [1]]


async def test_image_cancelled_while_waiting_is_not_generated(
    pipeline: FakePipeline, batcher: ImageBatcher
) -> None:
    first = start(batcher, make_job(1))
    await pipeline.begun()
    second, third = start(batcher, make_job(2)), start(batcher, make_job(3))
    await queued(batcher, 2)

    second.cancel()
    await asyncio.wait({second})
    pipeline.go.release(2)
    await asyncio.gather(first, third)

    assert pipeline.seeds == [[1], [3]]
    assert batcher.waiting == 0


async def test_image_cancelled_in_its_batch_is_marked(
    pipeline: FakePipeline, batcher: ImageBatcher
) -> None:
    one = start(batcher, make_job(1))
    await pipeline.begun()
    two, three = start(batcher, make_job(2)), start(batcher, make_job(3))
    await queued(batcher, 2)
    pipeline.go.release()
    await pipeline.begun()

    two.cancel()
    await asyncio.wait({two})

    assert [job.is_cancelled for job in pipeline.batches[1]] == [True, False]
    pipeline.go.release()
    assert await asyncio.gather(one, three) == [[1], [3]]


async def test_batch_of_cancelled_images_makes_room_for_the_next(
    pipeline: FakePipeline, batcher: ImageBatcher
) -> None:
    one = start(batcher, make_job(1))
    await pipeline.begun()
    one.cancel()
    await asyncio.wait({one})

    pipeline.go.release(2)

    assert await generate(batcher, make_job(2)) == [2]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("out of memory"), EngineError),
        (InvalidRequestError("no"), InvalidRequestError),
    ],
)
async def test_failure_reaches_its_batch_and_not_the_next(
    pipeline: FakePipeline, batcher: ImageBatcher, error: Exception, kind: type[Exception]
) -> None:
    pipeline.error = error
    pipeline.go.release()
    with pytest.raises(kind):
        await generate(batcher, make_job(1))

    pipeline.error = None
    pipeline.go.release()

    assert await generate(batcher, make_job(2)) == [2]


async def test_image_that_fails_its_batch_fails_alone(
    pipeline: FakePipeline, batcher: ImageBatcher
) -> None:
    pipeline.bad_seed = 3
    first = start(batcher, make_job(1))
    await pipeline.begun()
    others = [start(batcher, make_job(seed)) for seed in (2, 3, 4)]
    await queued(batcher, 3)

    pipeline.go.release(10)
    results = await asyncio.gather(first, *others, return_exceptions=True)

    assert [results[0], results[1], results[3]] == [[1], [2], [4]]
    assert isinstance(results[2], EngineError)
    assert pipeline.seeds == [[1], [2, 3, 4], [2], [3], [4]]


async def test_refusal_of_one_image_reaches_its_request_alone(
    pipeline: FakePipeline, batcher: ImageBatcher
) -> None:
    pipeline.bad_seed = 3
    pipeline.bad_error = InvalidRequestError("no", param="image")
    first = start(batcher, make_job(1))
    await pipeline.begun()
    others = [start(batcher, make_job(seed)) for seed in (2, 3)]
    await queued(batcher, 2)

    pipeline.go.release(10)
    results = await asyncio.gather(first, *others, return_exceptions=True)

    assert results[:2] == [[1], [2]]
    assert isinstance(results[2], InvalidRequestError)
    assert results[2].param == "image"


async def test_image_cancelled_before_its_retry_is_not_generated_again(
    pipeline: FakePipeline, batcher: ImageBatcher
) -> None:
    pipeline.bad_seed = 2
    first = start(batcher, make_job(1))
    await pipeline.begun()
    bad, cancelled, other = (start(batcher, make_job(seed)) for seed in (2, 3, 4))
    await queued(batcher, 3)
    pipeline.go.release()
    await first
    await pipeline.begun()

    cancelled.cancel()
    await asyncio.wait({cancelled})
    pipeline.go.release(10)
    await asyncio.wait({bad, other})

    assert pipeline.seeds == [[1], [2, 3, 4], [2], [4]]
    assert await other == [4]


async def test_retried_image_emits_each_step_once(
    pipeline: FakePipeline, batcher: ImageBatcher
) -> None:
    pipeline.bad_seed = 3
    previewed = replace(make_job(2), preview_steps=frozenset({1}))
    pipeline.go.release(10)

    async def watch() -> list[ImageEvent]:
        return [event async for event in batcher.generate([previewed])]

    events, _ = await asyncio.gather(
        watch(), generate(batcher, make_job(3)), return_exceptions=True
    )

    assert pipeline.seeds == [[2, 3], [2], [3]]
    assert events == [ImageEvent(0, 1, IMAGE), ImageEvent(0, 2, IMAGE, is_final=True)]


async def test_clients_of_the_last_batch_are_waited_for(
    pipeline: FakePipeline, batcher: ImageBatcher
) -> None:
    pipeline.go.release(2)
    await generate(batcher, make_job(1), make_job(2, index=1))

    first = start(batcher, make_job(3))
    await queued(batcher, 1)
    second = start(batcher, make_job(4))
    await asyncio.gather(first, second)

    assert pipeline.seeds == [[1, 2], [3, 4]]


async def test_wait_for_clients_ends_with_the_window(
    pipeline: FakePipeline, batcher: ImageBatcher
) -> None:
    pipeline.go.release(3)
    await generate(batcher, make_job(1), make_job(2, index=1))

    await generate(batcher, make_job(3))
    await generate(batcher, make_job(4))

    assert pipeline.seeds == [[1, 2], [3], [4]]
