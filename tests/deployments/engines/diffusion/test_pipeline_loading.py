"""Which of diffusers' pipelines are supported, and the options of how they run."""

import asyncio
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from api.ports.images import Edit, ImageRequest
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.diffusers_engine import DiffusersEngine
from deployments.engines.diffusion.pipeline_loading import (
    build_img2img,
    check_supported,
)
from deployments.engines.diffusion.pipelines import Pipelines
from tests.helpers.generated_images import SAME, difference, to_pixels
from tests.helpers.tiny_pipelines import SHAPES, VAE_TILE_PX, write_flux


class WithCallback:
    """As most pipelines are."""

    num_timesteps = 0

    def __call__(self, prompt: str, callback_on_step_end: object = None) -> None:
        """Generate."""


class WithoutCallback:
    """As PixArt's, which cannot be stopped."""

    num_timesteps = 0

    def __call__(self, prompt: str, callback: object = None) -> None:
        """Generate."""


class WithoutStepCount:
    """As PRX's, which does not say how many steps it takes."""

    def __call__(self, prompt: str, callback_on_step_end: object = None) -> None:
        """Generate."""


def test_pipeline_with_a_step_callback_is_supported() -> None:
    check_supported(WithCallback())


@pytest.mark.parametrize("kind", [WithoutCallback, WithoutStepCount])
def test_pipeline_that_cannot_be_stopped_is_refused_by_name(kind: type) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} is not supported"):
        check_supported(kind())


@pytest.mark.parametrize("name", ["Flux2Pipeline", "Flux2KleinPipeline"])
def test_pipeline_that_mixes_the_input_images_of_a_batch_has_no_img2img(name: str) -> None:
    base = type(name, (WithCallback,), {})()

    assert build_img2img(base) is None


async def generate_all(
    model: str = str(SHAPES), size_px: int | None = None, **more: bool
) -> list[np.ndarray]:
    """Two images of one batch, and an edit."""
    options = DiffusionOptions(dtype="float32", num_inference_steps=2, **more)
    engine = DiffusersEngine(Pipelines(model, options), options)
    sizes = {"width_px": size_px, "height_px": size_px}
    try:
        requests = [ImageRequest("r", "a red circle", seed=seed, **sizes) for seed in range(2)]
        images = await asyncio.gather(*(engine.generate(request) for request in requests))
        edit = Edit(images[0].images[0].data)
        edited = ImageRequest("r", "a square", seed=2, edit=edit, **sizes)
        images.append(await engine.generate(edited))
    finally:
        engine.shut_down()
    return [to_pixels(each.images[0].data) for each in images]


@pytest.mark.e2e
@pytest.mark.parametrize("option", ["attention_slicing", "vae_slicing", "compile"])
async def test_option_does_not_change_the_images(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    # Traces and guards as always, but generates no code, which would take minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))

    plain, with_option = await generate_all(), await generate_all(**{option: True})

    assert max(map(difference, plain, with_option)) < SAME


@pytest.mark.e2e
async def test_vae_tiling_decodes_large_images_in_tiles(tmp_path: Path) -> None:
    model, size_px = write_flux(tmp_path), 2 * VAE_TILE_PX

    plain = await generate_all(model, size_px)
    tiled = await generate_all(model, size_px, vae_tiling=True)

    assert [image.shape for image in tiled] == [(size_px, size_px, 3)] * 3
    assert min(map(difference, plain, tiled)) > 0.0


@pytest.mark.e2e
def test_vae_that_cannot_be_tiled_is_refused() -> None:
    with pytest.raises(ValueError, match="vae_tiling"):
        Pipelines(str(SHAPES), DiffusionOptions(vae_tiling=True))
