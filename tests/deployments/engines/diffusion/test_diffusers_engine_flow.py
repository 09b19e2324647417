"""The engine on the flow-matching families Flux, SD3 and Z-Image, with random weights."""

import asyncio
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from api.errors import InvalidRequestError, UnsupportedParameterError
from api.ports.images import Edit, ImageRequest
from api.ports.stream import ImageProgress
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.diffusers_engine import DiffusersEngine
from deployments.engines.diffusion.pipelines import Pipelines
from tests.helpers.generated_images import SAME, difference, generate, to_pixels, to_png
from tests.helpers.tiny_pipelines import SCALE, counted_rows, write_flux, write_qwen

pytestmark = pytest.mark.e2e

WIDTH, HEIGHT = 32, 24
PROMPT = "a red circle"
OPTIONS = DiffusionOptions(dtype="float32", num_inference_steps=2)


def to_request(seed: int = 0, **more: Any) -> ImageRequest:
    return ImageRequest("r", PROMPT, seed=seed, width_px=WIDTH, height_px=HEIGHT, **more)


async def collect_progress(engine: DiffusersEngine, request: ImageRequest) -> list[ImageProgress]:
    seen: list[ImageProgress] = []
    await engine.generate(request, None, seen.append)
    return seen


def source() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def to_edit(strength: float | None = None, *, is_masked: bool = True) -> Edit:
    mask = Image.new("L", (WIDTH, HEIGHT), 0)
    mask.paste(255, (WIDTH // 2, 0, WIDTH, HEIGHT))
    return Edit(to_png(source()), to_png(mask) if is_masked else None, strength)


EDITS = [None, to_edit(is_masked=False), to_edit()]
EDIT_NAMES = ["text2img", "img2img", "inpaint"]


@pytest.mark.parametrize("edit", EDITS, ids=EDIT_NAMES)
async def test_preview_is_a_decoded_image(model: Any, edit: Edit | None) -> None:
    seen = await collect_progress(model.engine, to_request(previews=1, edit=edit))
    previews = [progress for progress in seen if progress.preview]

    assert [progress.step for progress in previews] == [2]
    assert to_pixels(previews[0].preview).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("edit", EDITS, ids=EDIT_NAMES)
async def test_image_does_not_depend_on_its_batch(model: Any, edit: Edit | None) -> None:
    requests = [to_request(seed, edit=edit) for seed in range(3)]
    alone = [await generate(model.engine, each) for each in requests]

    together = await asyncio.gather(*(generate(model.engine, each) for each in requests))

    assert max(map(difference, alone, together)) < SAME
    assert difference(alone[0], alone[1]) > 5.0


async def test_noise_that_a_scheduler_adds_depends_on_each_images_seed(model: Any) -> None:
    requests = [to_request(seed, scheduler="FlowMatchLCMScheduler") for seed in range(2)]
    alone = [await generate(model.engine, each) for each in requests]

    together = await asyncio.gather(*(generate(model.engine, each) for each in requests))

    assert max(map(difference, alone, together)) < SAME


async def test_cancelled_image_is_not_computed_and_changes_no_other(model: Any) -> None:
    requests = [to_request(seed, num_inference_steps=12) for seed in range(3)]
    alone = [await generate(model.engine, each) for each in requests]
    seen: asyncio.Queue[ImageProgress] = asyncio.Queue()
    watched = asyncio.create_task(model.engine.generate(requests[0], None, seen.put_nowait))
    cancelled, other = (asyncio.create_task(generate(model.engine, r)) for r in requests[1:])
    await seen.get()

    cancelled.cancel()
    with counted_rows(model.pipelines) as rows:
        remaining = [to_pixels((await watched).images[0].data), await other]

    assert max(map(difference, [alone[0], alone[2]], remaining)) < SAME
    # Flux takes guidance as an input; the others compute each row with and without its prompt.
    blocks = 1 if model.pipelines.accepts("true_cfg_scale") else 2
    assert rows[-1] == 2 * blocks


async def test_batch_stops_when_its_last_image_is_cancelled(model: Any) -> None:
    seen: asyncio.Queue[ImageProgress] = asyncio.Queue()
    task = asyncio.create_task(
        model.engine.generate(to_request(num_inference_steps=900), None, seen.put_nowait)
    )
    await seen.get()
    task.cancel()
    await asyncio.wait({task})

    await generate(model.engine, to_request(num_inference_steps=1))

    assert seen.qsize() < 100


async def test_pixels_outside_the_mask_are_the_sources(model: Any) -> None:
    generated = await generate(model.engine, to_request(edit=to_edit()))
    before = np.asarray(source(), dtype=float)

    assert np.array_equal(generated[:, : WIDTH // 2], before[:, : WIDTH // 2])
    assert difference(generated[:, WIDTH // 2 :], before[:, WIDTH // 2 :]) > 5.0


@pytest.mark.parametrize("strength", [0.1, 0.6, 0.75, 1.0])
async def test_progress_of_an_edit_ends_with_its_last_step(model: Any, strength: float) -> None:
    edit = to_edit(strength, is_masked=False)

    seen = await collect_progress(model.engine, to_request(edit=edit))

    assert [progress.step for progress in seen] == list(range(1, seen[0].steps + 1))


async def test_negative_prompt_changes_the_image(model: Any) -> None:
    plain, negative, same = [
        await generate(model.engine, to_request(negative_prompt=words))
        for words in (None, "blue", "blue")
    ]

    assert difference(plain, negative) > 0.5
    assert difference(negative, same) == 0.0


async def test_true_cfg_scale_changes_the_image_of_flux(flux: Any) -> None:
    one, other = [
        await generate(flux.engine, to_request(negative_prompt="blue", true_cfg_scale=scale))
        for scale in (1.5, 9)
    ]

    assert difference(one, other) > 0.5


async def test_guidance_scale_changes_the_image(model: Any) -> None:
    weak = await generate(model.engine, to_request(guidance_scale=1.5))
    strong = await generate(model.engine, to_request(guidance_scale=9))

    assert difference(weak, strong) > 0.0


async def test_model_without_a_configured_size_has_the_default_one(z_image: Any) -> None:
    capabilities = z_image.engine.capabilities

    assert capabilities["size"] == "1024x1024"
    assert capabilities["size_multiple_px"] == 2 * SCALE


async def test_prompt_that_one_encoder_truncates_is_not_logged(model: Any) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logger = logging.getLogger("diffusers")
    logger.addHandler(handler)
    try:
        await generate(model.engine, to_request())
        await model.engine.generate(
            ImageRequest("r", "z" * 80 + " canary", width_px=16, height_px=16)
        )
    finally:
        logger.removeHandler(handler)

    assert "canary" not in written.getvalue()


async def test_size_must_be_a_multiple_of_the_pipelines_patches(model: Any) -> None:
    assert model.engine.capabilities["size_multiple_px"] == 4
    with pytest.raises(InvalidRequestError, match="multiples of 4"):
        await model.engine.generate(ImageRequest("r", PROMPT, width_px=30, height_px=24))


@pytest.mark.parametrize(
    ("family", "error"),
    [("sd3", UnsupportedParameterError), ("flux", InvalidRequestError)],
)
async def test_true_cfg_scale_needs_a_family_that_has_it_and_a_negative_prompt(
    request: pytest.FixtureRequest, family: str, error: type[InvalidRequestError]
) -> None:
    engine = request.getfixturevalue(family).engine
    with pytest.raises(error) as failure:
        await engine.generate(ImageRequest("r", PROMPT, true_cfg_scale=2.0))

    assert failure.value.param == "true_cfg_scale"


async def test_model_without_guidance_refuses_a_guidance_scale(tmp_path: Path) -> None:
    pipelines = Pipelines(write_flux(tmp_path, is_guided=False), OPTIONS)
    engine = DiffusersEngine(pipelines, OPTIONS, "tiny")

    assert engine.capabilities["guidance_scale"] is None
    assert (await generate(engine, to_request())).shape == (HEIGHT, WIDTH, 3)
    with pytest.raises(UnsupportedParameterError) as failure:
        await engine.generate(to_request(guidance_scale=2.0))
    assert failure.value.param == "guidance_scale"
    engine.shut_down()


async def test_model_with_a_video_vae_generates_and_is_healthy(tmp_path: Path) -> None:
    engine = DiffusersEngine(Pipelines(write_qwen(tmp_path), OPTIONS), OPTIONS, "tiny")

    images = await engine.generate(ImageRequest("r", PROMPT, seed=1, width_px=32, height_px=32))
    engine.check_health()
    engine.shut_down()

    assert len(images.images) == 1
