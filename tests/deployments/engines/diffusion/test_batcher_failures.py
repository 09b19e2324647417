"""Batches that fail: who gets the error, and what is generated again."""

import asyncio
from dataclasses import replace

import pytest

from api.errors import EngineError, InvalidRequestError
from deployments.engines.diffusion.batcher import ImageBatcher
from deployments.engines.diffusion.image_job import ImageEvent
from tests.helpers.image_batches import IMAGE, FakePipeline, generate, make_job, queued, start


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
