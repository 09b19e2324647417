"""The engine on the demo's model, in float32 on the CPU."""

import asyncio
import io
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from PIL import Image

from api.errors import InvalidRequestError, ReplicaLostError
from api.ports.images import Edit, ImageEncoding, ImageRequest
from api.ports.stream import ImageProgress
from api.ports.tenancy import RequestContext
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.diffusers_engine import DiffusersEngine
from deployments.engines.diffusion.image_job import ImageEvent, ImageJob
from deployments.engines.diffusion.pipelines import Pipelines
from deployments.engines.protocol import RequestProgress
from deployments.models.accounting import AccountedRequest
from deployments.models.fair_queue import FairQueue
from tests.helpers.generated_images import SAME, difference, generate, to_pixels, to_png
from tests.helpers.tiny_pipelines import SHAPES, counted_rows

pytestmark = pytest.mark.e2e

PROMPTS = (
    "a red circle on a white background",
    "a blue square on a white background",
    "a green triangle on a white background",
    "a yellow circle on a black background",
)
SCHEDULERS = (
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "UniPCMultistepScheduler",
)
TWO_PASSES = "HeunDiscreteScheduler"
OPTIONS = DiffusionOptions(
    dtype="float32",
    num_inference_steps=8,
    guidance_scale=3.0,
    schedulers=(*SCHEDULERS, TWO_PASSES),
    qualities={"low": 2},
    max_size_px=128,
    batch_window_ms=50,
)
TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def pipelines() -> Pipelines:
    return Pipelines(str(SHAPES), OPTIONS)


@pytest.fixture(scope="module")
def engine(pipelines: Pipelines) -> Iterator[DiffusersEngine]:
    engine = DiffusersEngine(pipelines, OPTIONS, "shapes")
    yield engine
    engine.shut_down()


def to_request(number: int, **more) -> ImageRequest:
    return ImageRequest(f"r{number}", PROMPTS[number], seed=number * 7, **more)


@pytest.mark.parametrize("scheduler", [None, *SCHEDULERS])
async def test_image_does_not_depend_on_its_batch(
    engine: DiffusersEngine, scheduler: str | None
) -> None:
    requests = [to_request(number, scheduler=scheduler) for number in range(4)]
    alone = [await generate(engine, request) for request in requests]

    together = await asyncio.gather(*(generate(engine, request) for request in requests))

    assert max(map(difference, alone, together)) < SAME


@pytest.mark.parametrize("scheduler", [None, *SCHEDULERS])
async def test_cancelled_image_is_not_computed_and_changes_no_other(
    pipelines: Pipelines, engine: DiffusersEngine, scheduler: str | None
) -> None:
    requests = [
        to_request(number, scheduler=scheduler, num_inference_steps=30) for number in range(4)
    ]
    alone = [await generate(engine, request) for request in requests]
    first = asyncio.create_task(generate(engine, requests[0]))
    seen: asyncio.Queue[ImageProgress] = asyncio.Queue()
    watched = asyncio.create_task(engine.generate(requests[1], None, seen.put_nowait))
    cancelled = asyncio.create_task(generate(engine, requests[2]))
    last = asyncio.create_task(generate(engine, requests[3]))
    for _ in range(3):
        await seen.get()

    cancelled.cancel()
    with counted_rows(pipelines) as rows:
        remaining = [await first, to_pixels((await watched).images[0].data), await last]

    assert cancelled.cancelled()
    assert rows[-1] == 2 * 3  # each with its prompt, and without
    assert max(map(difference, [alone[0], alone[1], alone[3]], remaining)) < SAME


async def test_hanging_model_fails_its_health_check() -> None:
    has_begun, end = threading.Event(), threading.Event()

    class Hanging(Pipelines):
        def run(self, batch: Sequence[ImageJob], between_steps: object = None) -> None:
            has_begun.set()
            end.wait(TIMEOUT_S)

    stall_timeout_s = 0.05
    engine = DiffusersEngine(
        Hanging(str(SHAPES), OPTIONS), OPTIONS, stall_timeout_s=stall_timeout_s
    )
    engine.check_health()
    task = asyncio.create_task(generate(engine, to_request(0)))
    try:
        assert await asyncio.to_thread(has_begun.wait, TIMEOUT_S)
        await asyncio.sleep(2 * stall_timeout_s)  # the stall itself: nothing happens that long
        with pytest.raises(ReplicaLostError, match="no progress"):
            engine.check_health()
    finally:
        end.set()
        task.cancel()
        engine.shut_down()


async def test_full_batches_form_though_clients_come_again_at_different_times() -> None:
    """Each client asks again as soon as its file is written, which takes longer than the window."""
    max_images, rounds = 4, 4
    sizes: list[int] = []
    noise = Image.frombytes("RGB", (256, 256), os.urandom(256 * 256 * 3))

    class Slow(Pipelines):
        def run(self, batch: Sequence[ImageJob], between_steps: object = None) -> None:
            """Takes as long as a batch on a GPU, whatever its size."""
            time.sleep(0.4)
            sizes.append(len(batch))
            for job in batch:
                job.emit(ImageEvent(job.index, 2, noise, is_final=True))

    options = DiffusionOptions(dtype="float32", num_inference_steps=2, max_batch_images=max_images)
    engine = DiffusersEngine(Slow(str(SHAPES), options), options)
    queue = FairQueue(engine.capacity, 100)

    async def run_client(name: str) -> None:
        for _ in range(rounds):
            progress = AccountedRequest(RequestContext(tenant=name), queue, None)
            try:
                await engine.generate(
                    ImageRequest(name, "a dot", width_px=64, height_px=64), progress
                )
            finally:
                await progress.end()

    await asyncio.gather(*(run_client(str(number)) for number in range(2 * max_images)))
    engine.shut_down()

    assert sum(sizes) == 2 * max_images * rounds
    assert len(sizes) <= 11


async def test_step_of_several_passes_counts_once(engine: DiffusersEngine) -> None:
    seen: list[ImageProgress] = []
    progress = RequestProgress()
    await engine.generate(to_request(0, scheduler=TWO_PASSES, previews=1), progress, seen.append)

    assert [each.step for each in seen] == list(range(1, 9))
    assert [each.step for each in seen if each.preview] == [4]
    assert progress.image_steps == 8
    assert progress.count_steps_left
    assert progress.count_steps_left() == 0


async def test_work_stops_within_one_step_of_the_last_cancellation(
    engine: DiffusersEngine,
) -> None:
    seen: asyncio.Queue[ImageProgress] = asyncio.Queue()
    progress = RequestProgress()
    task = asyncio.create_task(
        engine.generate(to_request(0, num_inference_steps=50), progress, seen.put_nowait)
    )
    for _ in range(5):
        await seen.get()
    task.cancel()
    await asyncio.wait({task})

    began_s = asyncio.get_running_loop().time()
    await engine.generate(to_request(1, num_inference_steps=1))

    assert progress.image_steps <= 6
    assert asyncio.get_running_loop().time() - began_s < 5


async def test_seeds_of_a_request_count_up(engine: DiffusersEngine) -> None:
    images = (await engine.generate(to_request(0, n=3))).images
    third = await generate(engine, ImageRequest("r", PROMPTS[0], seed=2))

    assert [image.seed for image in images] == [0, 1, 2]
    assert difference(to_pixels(images[2].data), third) < SAME


async def test_previews_are_spread_over_the_steps(engine: DiffusersEngine) -> None:
    seen: list[ImageProgress] = []

    await engine.generate(
        to_request(0, previews=3, file=ImageEncoding("webp", 80)), None, seen.append
    )

    assert [each.step for each in seen] == list(range(1, 9))
    assert [each.step for each in seen if each.preview] == [2, 4, 6]
    assert to_pixels(seen[5].preview).shape == (96, 96, 3)


async def test_png_stores_how_it_was_made(engine: DiffusersEngine) -> None:
    images = await engine.generate(to_request(1))

    with Image.open(io.BytesIO(images.images[0].data)) as image:
        provenance = json.loads(image.info["triptych"])
    assert provenance == {"model": "shapes", "seed": 7, "steps": 8, "guidance": 3.0}


async def test_quality_sets_the_steps_unless_they_are_requested(engine: DiffusersEngine) -> None:
    progress, other = RequestProgress(), RequestProgress()

    await engine.generate(to_request(0, quality="low"), progress)
    await engine.generate(to_request(0, quality="low", num_inference_steps=3), other)

    assert (progress.image_steps, other.image_steps) == (2, 3)


async def test_inpainting_keeps_pixels_outside_the_mask(engine: DiffusersEngine) -> None:
    source = (await engine.generate(to_request(0))).images[0].data
    half = Image.new("RGBA", (96, 96), "black")
    half.paste((0, 0, 0, 0), (48, 0, 96, 96))

    edit = Edit(source, to_png(half), 0.9)
    image = await generate(engine, ImageRequest("r", PROMPTS[1], seed=5, edit=edit))

    assert difference(image[:, :48], to_pixels(source)[:, :48]) == 0.0
    assert difference(image[:, 48:], to_pixels(source)[:, 48:]) > 5.0


async def test_more_strength_changes_more(engine: DiffusersEngine) -> None:
    source = (await engine.generate(to_request(0))).images[0].data
    weak, strong = [
        ImageRequest("r", PROMPTS[1], seed=5, edit=Edit(source, None, strength))
        for strength in (0.15, 1.0)
    ]

    changed_little = difference(await generate(engine, weak), to_pixels(source))
    changed_much = difference(await generate(engine, strong), to_pixels(source))

    assert changed_little < changed_much


async def test_edit_does_not_depend_on_its_batch(engine: DiffusersEngine) -> None:
    source = to_png(Image.new("RGB", (96, 64), "red"))
    mask = to_png(Image.new("L", (96, 64), 255))
    requests = [
        ImageRequest(f"r{seed}", PROMPTS[seed], seed=seed, edit=Edit(source, mask))
        for seed in range(3)
    ]
    alone = [await generate(engine, request) for request in requests]

    together = await asyncio.gather(*(generate(engine, request) for request in requests))

    assert alone[0].shape == (80, 112, 3)  # as many pixels as 96 x 96, which is the model's own
    assert max(map(difference, alone, together)) < SAME


def square(side_px: int) -> bytes:
    return to_png(Image.new("RGB", (side_px, side_px)))


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"width_px": 60, "height_px": 64}, "size"),
        ({"width_px": 256, "height_px": 64}, "size"),
        ({"scheduler": "LMSDiscreteScheduler"}, "scheduler"),
        ({"edit": Edit(b"no image")}, "image"),
        ({"edit": Edit(square(32), b"no mask")}, "mask"),
        ({"edit": Edit(square(32), square(16))}, "mask"),
        ({"edit": Edit(square(32), None, 0.01)}, "strength"),
    ],
)
async def test_invalid_request_is_refused_before_its_turn(
    engine: DiffusersEngine, more: dict, param: str
) -> None:
    with pytest.raises(InvalidRequestError) as failure:
        await engine.generate(to_request(0, **more))

    assert failure.value.param == param
