"""The engine on the families that flow from noise to picture, Flux and SD3, with random weights."""

import asyncio
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from api.errors import InvalidRequestError, UnsupportedParameterError
from api.ports.images import Edit, ImageRequest
from api.ports.stream import Delta, ImageProgress
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.batcher import Canvas, Recipe
from deployments.engines.diffusion.diffusers_engine import DiffusersEngine
from deployments.engines.diffusion.inpainting import Keeping
from deployments.engines.diffusion.latents import encode, pack
from tests.helpers.tiny_pipelines import (
    CLIP_TOKENS,
    SCALE,
    T5_TOKENS,
    counted_rows,
    write_flux,
    write_qwen,
    write_sd3,
    write_z_image,
)

pytestmark = pytest.mark.e2e

WIDTH, HEIGHT = 32, 24
PROMPT = "a red circle"
OPTIONS = DiffusionOptions(
    dtype="float32",
    num_inference_steps=4,
    guidance_scale=3.0,
    size_multiple_px=2,
    batch_window_ms=50,
    schedulers=("FlowMatchLCMScheduler",),
)


def load(
    write: Callable[..., str], factory: pytest.TempPathFactory, **more: Any
) -> Iterator[DiffusersEngine]:
    engine = DiffusersEngine(write(factory.mktemp("model"), **more), OPTIONS, "tiny")
    yield engine
    engine.shut_down()


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiffusersEngine]:
    yield from load(write_flux, tmp_path_factory)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiffusersEngine]:
    yield from load(write_sd3, tmp_path_factory)


@pytest.fixture(scope="module")
def z_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiffusersEngine]:
    yield from load(write_z_image, tmp_path_factory)


@pytest.fixture(params=["flux", "sd3", "z_image"])
def engine(request: pytest.FixtureRequest) -> DiffusersEngine:
    engine: DiffusersEngine = request.getfixturevalue(request.param)
    return engine


def asked(seed: int = 0, **more: Any) -> ImageRequest:
    return ImageRequest("r", PROMPT, seed=seed, width_px=WIDTH, height_px=HEIGHT, **more)


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"), dtype=float)  # (H, W, 3)


async def draw(engine: DiffusersEngine, request: ImageRequest) -> np.ndarray:
    return pixels((await engine.generate(request)).images[0].data)


async def watch(engine: DiffusersEngine, request: ImageRequest) -> list[ImageProgress]:
    seen: list[Delta] = []
    await engine.generate(request, None, seen.append)
    return [delta.extra.sketch for delta in seen if delta.extra and delta.extra.sketch]


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def source() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def right_half() -> Image.Image:
    mask = Image.new("L", (WIDTH, HEIGHT), 0)
    mask.paste(255, (WIDTH // 2, 0, WIDTH, HEIGHT))
    return mask


def to_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def to_edit(strength: float | None = None, *, is_masked: bool = True) -> Edit:
    return Edit(to_png(source()), to_png(right_half()) if is_masked else None, strength)


async def test_previews_are_shown_on_the_way(engine: DiffusersEngine) -> None:
    for edit in (None, to_edit()):
        sketches = await watch(engine, asked(previews=1, edit=edit))
        shown = [sketch for sketch in sketches if sketch.preview]

        assert [sketch.step for sketch in shown] == [2]
        assert pixels(shown[0].preview).shape == (HEIGHT, WIDTH, 3)


async def test_images_and_edits_are_the_same_in_any_company(engine: DiffusersEngine) -> None:
    for edit in (None, to_edit(is_masked=False), to_edit()):
        requests = [asked(seed, edit=edit) for seed in range(3)]
        alone = [await draw(engine, request) for request in requests]

        together = await asyncio.gather(*(draw(engine, request) for request in requests))

        assert max(map(difference, alone, together)) < 1.0
        assert difference(alone[0], alone[1]) > 5.0


async def test_noise_that_a_scheduler_adds_is_of_each_images_own_seed(
    engine: DiffusersEngine,
) -> None:
    requests = [asked(seed, scheduler="FlowMatchLCMScheduler") for seed in range(2)]
    alone = [await draw(engine, request) for request in requests]

    together = await asyncio.gather(*(draw(engine, request) for request in requests))

    assert max(map(difference, alone, together)) < 1.0


async def test_who_leaves_harms_nobody(engine: DiffusersEngine) -> None:
    requests = [asked(seed, num_inference_steps=12) for seed in range(3)]
    alone = [await draw(engine, request) for request in requests]
    seen: asyncio.Queue[Delta] = asyncio.Queue()
    watched = asyncio.create_task(engine.generate(requests[0], None, seen.put_nowait))
    leaver, other = (asyncio.create_task(draw(engine, each)) for each in requests[1:])
    await seen.get()

    leaver.cancel()
    with counted_rows(engine) as rows:
        stayed = [pixels((await watched).images[0].data), await other]

    assert max(map(difference, [alone[0], alone[2]], stayed)) < 1.0
    has_true_cfg = engine._pipelines.accepts("true_cfg_scale")
    blocks = 1 if has_true_cfg else 2  # all but FLUX are guided by a second block
    assert rows[-1] == 2 * blocks


async def test_work_stops_when_the_last_has_left(engine: DiffusersEngine) -> None:
    seen: asyncio.Queue[Delta] = asyncio.Queue()
    drawing = asyncio.create_task(
        engine.generate(asked(num_inference_steps=900), None, seen.put_nowait)
    )
    await seen.get()
    drawing.cancel()
    await asyncio.wait({drawing})

    await draw(engine, asked(num_inference_steps=1))

    assert seen.qsize() < 100


def test_what_the_mask_leaves_out_is_put_back_after_every_step(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    pipelines = engine._pipelines
    recipe = Recipe("inpaint", WIDTH, HEIGHT, 4, 3.0, strength=0.8)
    canvas = Canvas(0, recipe, PROMPT, None, 1, image=source(), mask=right_half())
    known = encode(pipelines.base, source())
    mask = torch.zeros_like(known)
    mask[..., mask.shape[-1] // 2 :] = 1
    is_kept = pack(pipelines.base, mask) == 0
    packed = pack(pipelines.base, known)
    left: list[tuple[float, torch.Tensor]] = []
    restore = Keeping.restore

    def spy(self: Keeping, pipeline: Any, step: int, latents: torch.Tensor) -> torch.Tensor:
        restored = restore(self, pipeline, step, latents)
        sigma = float(pipeline.scheduler.sigmas[pipeline.scheduler.step_index])
        left.append((sigma, (restored - (1 - sigma) * packed)[is_kept]))
        assert torch.equal(restored[~is_kept], latents[~is_kept])
        return restored

    monkeypatch.setattr(Keeping, "restore", spy)
    pipelines.draw([canvas])

    noises = [rest / sigma for sigma, rest in left if sigma > 0]
    assert len(left) == 4
    assert len(noises) == 3  # the last step ends with the picture itself
    assert float(left[-1][1].abs().max()) < 1e-5
    assert 0.8 < float(noises[0].std()) < 1.2
    assert all(torch.allclose(noise, noises[0], atol=1e-4) for noise in noises)


async def test_pixels_that_the_mask_leaves_out_are_those_of_the_source(
    engine: DiffusersEngine,
) -> None:
    drawn = await draw(engine, asked(edit=to_edit()))
    before = np.asarray(source(), dtype=float)

    assert np.array_equal(drawn[:, : WIDTH // 2], before[:, : WIDTH // 2])
    assert difference(drawn[:, WIDTH // 2 :], before[:, WIDTH // 2 :]) > 5.0


@pytest.mark.parametrize("strength", [0.1, 0.6, 0.75, 1.0])
async def test_progress_ends_with_the_last_step(engine: DiffusersEngine, strength: float) -> None:
    sketches = await watch(engine, asked(edit=to_edit(strength, is_masked=False)))

    assert [sketch.step for sketch in sketches] == list(range(1, sketches[0].steps + 1))


async def test_negative_prompt_changes_the_image(engine: DiffusersEngine) -> None:
    plain, negative, same = [
        await draw(engine, asked(negative_prompt=words)) for words in (None, "blue", "blue")
    ]

    assert difference(plain, negative) > 0.5
    assert difference(negative, same) == 0.0


async def test_weight_of_the_negative_prompt_is_flux_s_own(flux: DiffusersEngine) -> None:
    one, other = [
        await draw(flux, asked(negative_prompt="blue", true_cfg_scale=scale)) for scale in (1.5, 9)
    ]

    assert difference(one, other) > 0.5


async def test_guidance_changes_the_image(engine: DiffusersEngine) -> None:
    assert difference(
        await draw(engine, asked(guidance_scale=1.5)), await draw(engine, asked(guidance_scale=9))
    )


@pytest.mark.parametrize("words", ["a" * (CLIP_TOKENS + 5), "b " * (T5_TOKENS // 2 - 2)])
async def test_prompt_is_as_long_as_the_longest_encoder_reads(
    engine: DiffusersEngine, words: str
) -> None:
    images = await engine.generate(ImageRequest("r", words, width_px=16, height_px=16, seed=1))

    assert images.usage.prompt_tokens > CLIP_TOKENS


@pytest.mark.parametrize("param", ["prompt", "negative_prompt"])
async def test_longer_prompt_is_refused(engine: DiffusersEngine, param: str) -> None:
    texts = {"prompt": PROMPT, param: "a" * 512}

    with pytest.raises(InvalidRequestError, match=f"at most ({T5_TOKENS}|512)") as failure:
        await engine.generate(ImageRequest("r", **texts))

    assert failure.value.param == param


async def test_what_a_pipeline_puts_around_a_prompt_counts_too(z_image: DiffusersEngine) -> None:
    images = await z_image.generate(ImageRequest("r", "a" * 511, width_px=16, height_px=16))

    assert images.usage.prompt_tokens == 512
    with pytest.raises(
        InvalidRequestError, match="has 513 tokens, and this model reads at most 512"
    ):
        await z_image.generate(ImageRequest("r", "a" * 512))


async def test_a_model_that_tells_no_size_has_the_usual_one(z_image: DiffusersEngine) -> None:
    capabilities = z_image.capabilities

    assert capabilities["size"] == "1024x1024"
    assert capabilities["size_multiple_px"] == 2 * SCALE


async def test_prompt_that_one_encoder_cuts_is_not_logged(engine: DiffusersEngine) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logger = logging.getLogger("diffusers")
    logger.addHandler(handler)
    try:
        await draw(engine, asked())
        await engine.generate(ImageRequest("r", "z" * 80 + " canary", width_px=16, height_px=16))
    finally:
        logger.removeHandler(handler)

    assert "canary" not in written.getvalue()


async def test_sizes_are_those_that_the_pipeline_can_draw(engine: DiffusersEngine) -> None:
    assert engine.capabilities["size_multiple_px"] == 4
    with pytest.raises(InvalidRequestError, match="multiples of 4"):
        await engine.generate(ImageRequest("r", PROMPT, width_px=30, height_px=24))


async def test_what_the_family_does_not_have_is_refused(
    flux: DiffusersEngine, sd3: DiffusersEngine
) -> None:
    for engine, more, kind in (
        (sd3, {"true_cfg_scale": 2.0}, UnsupportedParameterError),
        (flux, {"true_cfg_scale": 2.0}, InvalidRequestError),  # without a negative prompt
    ):
        with pytest.raises(kind) as failure:
            await engine.generate(asked(**more))
        assert failure.value.param == "true_cfg_scale"


async def test_guidance_of_a_model_without_any_is_refused(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    for engine in load(write_flux, tmp_path_factory, is_guided=False):
        assert engine.capabilities["guidance_scale"] is None
        assert (await draw(engine, asked())).shape == (HEIGHT, WIDTH, 3)
        with pytest.raises(UnsupportedParameterError) as failure:
            await engine.generate(asked(guidance_scale=2.0))
        assert failure.value.param == "guidance_scale"


async def test_a_model_with_a_vae_of_films_draws_and_is_healthy(tmp_path: Path) -> None:
    options = DiffusionOptions(dtype="float32", num_inference_steps=2)
    engine = DiffusersEngine(write_qwen(tmp_path), options, "tiny")

    drawn = await engine.generate(ImageRequest("r", PROMPT, seed=1, width_px=32, height_px=32))
    engine.check_health()
    engine.shut_down()

    assert len(drawn.images) == 1
