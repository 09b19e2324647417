"""Each option of how a pipeline runs: the images stay what they are."""

import asyncio
import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from api.ports.images import Edit, ImageRequest
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.diffusers_engine import DiffusersEngine
from tests.helpers.tiny_pipelines import VAE_TILE_PX, write_flux

pytestmark = pytest.mark.e2e

MODEL = Path(__file__).resolve().parents[4] / "scripts" / "demo" / "shapes"


async def draw_all(
    model: str = str(MODEL), size_px: int | None = None, **options: bool
) -> list[np.ndarray]:
    """Images drawn together, and one over another."""
    engine = DiffusersEngine(
        model, DiffusionOptions(dtype="float32", num_inference_steps=2, **options)
    )
    sizes = {"width_px": size_px, "height_px": size_px}
    try:
        requests = [ImageRequest("r", "a red circle", seed=seed, **sizes) for seed in range(2)]
        drawn = await asyncio.gather(*(engine.generate(request) for request in requests))
        edit = Edit(drawn[0].images[0].data)
        drawn.append(await engine.generate(ImageRequest("r", "a square", seed=2, edit=edit)))
    finally:
        engine.shut_down()
    pictures = [Image.open(io.BytesIO(images.images[0].data)) for images in drawn]
    return [np.asarray(picture.convert("RGB"), dtype=float) for picture in pictures]


@pytest.mark.parametrize("option", ["attention_slicing", "vae_slicing", "compile"])
async def test_option_leaves_images_as_they_are(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    # Traced and guarded as ever, but generating no code, which takes minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))

    plain, tuned = await draw_all(), await draw_all(**{option: True})

    assert max(float(np.abs(a - b).mean()) for a, b in zip(plain, tuned, strict=True)) < 1.0


async def test_large_images_are_drawn_in_tiles(tmp_path: Path) -> None:
    model, size_px = write_flux(tmp_path), 2 * VAE_TILE_PX

    plain, tiled = await draw_all(model, size_px), await draw_all(model, size_px, vae_tiling=True)

    assert [image.shape for image in tiled] == [(size_px, size_px, 3)] * 3
    assert not any(np.array_equal(a, b) for a, b in zip(plain, tiled, strict=True))


def test_vae_that_cannot_be_tiled_is_refused() -> None:
    with pytest.raises(ValueError, match="vae_tiling"):
        DiffusersEngine(str(MODEL), DiffusionOptions(vae_tiling=True))
