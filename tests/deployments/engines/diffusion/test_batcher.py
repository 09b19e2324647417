import asyncio
import contextlib
from dataclasses import replace

import pytest

from api.errors import ReplicaLostError
from api.ports.images import Lora
from deployments.engines.diffusion.batch_settings import BatchSettings
from deployments.engines.diffusion.batcher import ImageBatcher
from deployments.engines.diffusion.image_job import ImageEvent
from deployments.engines.stall_watch import StallWatch
from tests.helpers.image_batches import (
    IMAGE,
    SETTINGS,
    Clock,
    FakePipeline,
    generate,
    make_job,
    queued,
    start,
)


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

    await no_longer_stalled(stall_watch)  # no batch is under way


async def no_longer_stalled(stall_watch: StallWatch) -> None:
    """Wait for the end of a batch, which comes a moment after that of its last request."""
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(ReplicaLostError):
                return stall_watch.check()
            await asyncio.sleep(0.01)


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
