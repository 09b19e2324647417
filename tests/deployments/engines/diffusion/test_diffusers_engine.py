"""The real engine on the demo's model, in float32 on the CPU."""

import asyncio
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from api.errors import EngineError, InvalidRequestError, ReplicaLostError
from api.ports.images import Edit, ImageEncoding, ImageRequest
from api.ports.stream import Delta
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.diffusers_engine import DiffusersEngine
from deployments.engines.protocol import RequestProgress
from tests.helpers.tiny_pipelines import counted_rows

pytestmark = pytest.mark.e2e

MODEL = Path(__file__).resolve().parents[4] / "scripts" / "demo" / "shapes"
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


@pytest.fixture(scope="module")
def engine() -> Iterator[DiffusersEngine]:
    engine = DiffusersEngine(str(MODEL), OPTIONS, "shapes")
    yield engine
    engine.shut_down()


def asked(number: int, **more) -> ImageRequest:
    return ImageRequest(f"r{number}", PROMPTS[number], seed=number * 7, **more)


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"), dtype=float)  # (H, W, 3)


async def draw(engine: DiffusersEngine, request: ImageRequest) -> np.ndarray:
    images = await engine.generate(request)
    return pixels(images.images[0].data)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


@pytest.mark.parametrize("scheduler", [None, *SCHEDULERS])
async def test_image_is_the_same_in_any_company(
    engine: DiffusersEngine, scheduler: str | None
) -> None:
    requests = [asked(number, scheduler=scheduler) for number in range(4)]
    alone = [await draw(engine, request) for request in requests]

    together = await asyncio.gather(*(draw(engine, request) for request in requests))

    assert max(map(difference, alone, together)) < 1.0


@pytest.mark.parametrize("scheduler", [None, *SCHEDULERS])
async def test_who_leaves_harms_nobody(engine: DiffusersEngine, scheduler: str | None) -> None:
    requests = [asked(number, scheduler=scheduler, num_inference_steps=30) for number in range(4)]
    alone = [await draw(engine, request) for request in requests]
    first = asyncio.create_task(draw(engine, requests[0]))
    seen: asyncio.Queue[Delta] = asyncio.Queue()
    watched = asyncio.create_task(engine.generate(requests[1], None, seen.put_nowait))
    leaver = asyncio.create_task(draw(engine, requests[2]))
    last = asyncio.create_task(draw(engine, requests[3]))
    for _ in range(3):
        await seen.get()

    leaver.cancel()
    with counted_rows(engine) as rows:
        stayed = [await first, pixels((await watched).images[0].data), await last]

    assert leaver.cancelled() or leaver.done()
    assert rows[-1] == 2 * 3  # each with its prompt, and without
    assert max(map(difference, [alone[0], alone[1], alone[3]], stayed)) < 1.0


async def test_a_model_that_hangs_fails_its_health_check(monkeypatch) -> None:
    engine = DiffusersEngine(str(MODEL), OPTIONS, "shapes", stall_timeout_s=0.05)
    engine.check_health()
    has_begun, end = threading.Event(), threading.Event()

    def hang(canvases):
        has_begun.set()
        end.wait(20)

    monkeypatch.setattr(engine._batches, "_draw", hang)
    drawing = asyncio.create_task(draw(engine, asked(0)))
    try:
        assert await asyncio.to_thread(has_begun.wait, 20)
        engine.check_health()
        await asyncio.sleep(0.1)
        with pytest.raises(ReplicaLostError, match="no step"):
            engine.check_health()
    finally:
        end.set()
        drawing.cancel()
        engine.shut_down()


async def test_step_of_several_passes_is_one_step(engine: DiffusersEngine) -> None:
    seen: list[Delta] = []
    work = RequestProgress()
    await engine.generate(asked(0, scheduler=TWO_PASSES, previews=1), work, seen.append)
    sketches = [delta.extra.sketch for delta in seen if delta.extra and delta.extra.sketch]

    assert [sketch.step for sketch in sketches] == list(range(1, 9))
    assert [sketch.step for sketch in sketches if sketch.preview] == [4]
    assert work.image_steps == 8
    assert work.count_steps_left
    assert work.count_steps_left() == 0


@pytest.mark.parametrize("is_failure", [True, False])
async def test_pipeline_that_did_not_reach_its_end_is_put_in_order(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch, is_failure: bool
) -> None:
    """What is offloaded goes back, and so does the precision that SDXL's VAE computes in."""
    import torch

    base = engine._pipelines.base
    freed: list[None] = []
    monkeypatch.setattr(base, "maybe_free_model_hooks", lambda: freed.append(None))
    expected = await draw(engine, asked(0))
    freed.clear()
    seen: asyncio.Queue[Delta] = asyncio.Queue()

    def fail(*_: object, **__: object) -> None:
        base.vae.to(torch.float64)
        raise ValueError("no room")

    if is_failure:
        with monkeypatch.context() as patch:
            patch.setattr(base.vae, "decode", fail)
            with pytest.raises(EngineError):
                await draw(engine, asked(0))
    else:
        drawing = asyncio.create_task(
            engine.generate(asked(0, num_inference_steps=900), None, seen.put_nowait)
        )
        await seen.get()
        drawing.cancel()
        await asyncio.wait({drawing})

    assert difference(await draw(engine, asked(0)), expected) < 1.0
    assert len(freed) == 2  # once instead of the pipeline, and once by it
    assert base.vae.dtype == torch.float32


async def test_what_is_too_much_memory_together_is_drawn_alone(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    freed: list[None] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: freed.append(None))
    requests = [asked(number, previews=1) for number in range(4)]
    alone = [await draw(engine, request) for request in requests]
    seen: list[Delta] = []

    def fill_memory(_: object, inputs: tuple[torch.Tensor, ...], more: object) -> None:
        if inputs[0].shape[0] > 2 and seen:  # of each image, one with and one without its prompt
            raise torch.OutOfMemoryError("too much")

    hook = engine._pipelines.base.unet.register_forward_pre_hook(fill_memory, with_kwargs=True)
    try:
        watched = engine.generate(requests[0], None, seen.append)
        first, *others = await asyncio.gather(
            watched, *(draw(engine, request) for request in requests[1:])
        )
    finally:
        hook.remove()

    drawn = [pixels(first.images[0].data), *others]
    assert max(map(difference, alone, drawn)) < 1.0
    assert freed
    sketches = [delta.extra.sketch for delta in seen if delta.extra and delta.extra.sketch]
    assert [sketch.step for sketch in sketches] == list(range(1, 9))
    assert [sketch.step for sketch in sketches if sketch.preview] == [4]


async def test_work_stops_at_most_one_step_after_the_last_has_left(
    engine: DiffusersEngine,
) -> None:
    seen: asyncio.Queue[Delta] = asyncio.Queue()
    work = RequestProgress()
    drawing = asyncio.create_task(
        engine.generate(asked(0, num_inference_steps=50), work, seen.put_nowait)
    )
    for _ in range(5):
        await seen.get()
    drawing.cancel()
    await asyncio.wait({drawing})

    began = asyncio.get_running_loop().time()
    await engine.generate(asked(1, num_inference_steps=1))

    assert work.image_steps <= 6
    assert asyncio.get_running_loop().time() - began < 5


async def test_seeds_follow_each_other(engine: DiffusersEngine) -> None:
    images = (await engine.generate(asked(0, n=3))).images
    third = await draw(engine, ImageRequest("r", PROMPTS[0], seed=2))

    assert [image.seed for image in images] == [0, 1, 2]
    assert difference(pixels(images[2].data), third) < 1.0


async def test_previews_are_shown_on_the_way(engine: DiffusersEngine) -> None:
    seen: list[Delta] = []

    await engine.generate(asked(0, previews=3, file=ImageEncoding("webp", 80)), None, seen.append)
    sketches = [delta.extra.sketch for delta in seen if delta.extra and delta.extra.sketch]

    assert [sketch.step for sketch in sketches] == list(range(1, 9))
    assert [sketch.step for sketch in sketches if sketch.preview] == [2, 4, 6]
    assert pixels(sketches[5].preview).shape == (96, 96, 3)


async def test_png_says_how_to_make_it_again(engine: DiffusersEngine) -> None:
    images = await engine.generate(asked(1))

    with Image.open(io.BytesIO(images.images[0].data)) as picture:
        said = json.loads(picture.info["triptych"])
    assert said == {"model": "shapes", "seed": 7, "steps": 8, "guidance": 3.0}


async def test_quality_stands_for_steps(engine: DiffusersEngine) -> None:
    work, other = RequestProgress(), RequestProgress()

    await engine.generate(asked(0, quality="low"), work)
    await engine.generate(asked(0, quality="low", num_inference_steps=3), other)

    assert (work.image_steps, other.image_steps) == (2, 3)


def to_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


async def test_redrawing_keeps_what_it_is_told_to(engine: DiffusersEngine) -> None:
    source = (await engine.generate(asked(0))).images[0].data
    half = Image.new("RGBA", (96, 96), "black")
    half.paste((0, 0, 0, 0), (48, 0, 96, 96))

    edit = Edit(source, to_png(half), 0.9)
    drawn = await draw(engine, ImageRequest("r", PROMPTS[1], seed=5, edit=edit))

    assert difference(drawn[:, :48], pixels(source)[:, :48]) == 0.0
    assert difference(drawn[:, 48:], pixels(source)[:, 48:]) > 5.0


async def test_strength_says_how_much_changes(engine: DiffusersEngine) -> None:
    source = (await engine.generate(asked(0))).images[0].data
    changes = []
    for strength in (0.15, 1.0):
        request = ImageRequest("r", PROMPTS[1], seed=5, edit=Edit(source, None, strength))
        changes.append(difference(await draw(engine, request), pixels(source)))

    assert changes[0] < changes[1]


async def test_edits_are_the_same_in_any_company(engine: DiffusersEngine) -> None:
    source = to_png(Image.new("RGB", (96, 64), "red"))
    mask = to_png(Image.new("L", (96, 64), 255))
    requests = [
        ImageRequest(f"r{seed}", PROMPTS[seed], seed=seed, edit=Edit(source, mask))
        for seed in range(3)
    ]
    alone = [await draw(engine, request) for request in requests]

    together = await asyncio.gather(*(draw(engine, request) for request in requests))

    assert alone[0].shape == (64, 96, 3)
    assert max(map(difference, alone, together)) < 1.0


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"width_px": 60, "height_px": 64}, "size"),
        ({"width_px": 256, "height_px": 64}, "size"),
        ({"scheduler": "LMSDiscreteScheduler"}, "scheduler"),
        ({"edit": Edit(b"no picture")}, "image"),
        ({"edit": Edit(to_png(Image.new("RGB", (32, 32))), b"no mask")}, "mask"),
        (
            {"edit": Edit(to_png(Image.new("RGB", (32, 32))), to_png(Image.new("RGB", (16, 16))))},
            "mask",
        ),
        ({"edit": Edit(to_png(Image.new("RGB", (32, 32))), None, 0.01)}, "strength"),
    ],
)
async def test_what_does_not_fit_is_refused_before_its_turn(
    engine: DiffusersEngine, more: dict, param: str
) -> None:
    with pytest.raises(InvalidRequestError) as failure:
        await engine.generate(asked(0, **more))

    assert failure.value.param == param
