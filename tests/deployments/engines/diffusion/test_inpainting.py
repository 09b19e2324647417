"""Latents outside the mask, in pipelines of Flux, SD3 and Z-Image."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch  # noqa: TID253
from PIL import Image

from deployments.engines.diffusion.inpainting import MaskedLatents, composite
from deployments.engines.diffusion.latents import encode, pack
from deployments.engines.diffusion.pipeline_loading import build_img2img

WIDTH, HEIGHT = 32, 24
STEPS = 4


def source() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def right_half() -> Image.Image:
    mask = Image.new("L", (WIDTH, HEIGHT), 0)
    mask.paste(255, (WIDTH // 2, 0, WIDTH, HEIGHT))
    return mask


@pytest.mark.e2e
def test_latents_outside_the_mask_are_the_sources_with_one_noise_after_every_step(
    model: Any,
) -> None:
    base = model.pipelines.base
    pipeline = build_img2img(base)
    known = encode(base, source())
    mask = torch.zeros_like(known)
    mask[..., mask.shape[-1] // 2 :] = 1
    is_kept = pack(base, mask) == 0
    packed = pack(base, known)
    masked_latents = MaskedLatents(pipeline, [source()], [right_half()], [1])
    sigmas: list[float] = []
    rests: list[torch.Tensor] = []
    changed: list[bool] = []

    def after_step(pipeline: Any, step: int, timestep: Any, values: dict) -> dict:
        restored = masked_latents.restore(pipeline, step, values["latents"])
        sigma = float(pipeline.scheduler.sigmas[pipeline.scheduler.step_index])
        sigmas.append(sigma)
        rests.append((restored - (1 - sigma) * packed)[is_kept])
        changed.append(not torch.equal(restored[~is_kept], values["latents"][~is_kept]))
        return {**values, "latents": restored}

    sizes = {"width": WIDTH, "height": HEIGHT}
    accepted = inspect.signature(pipeline.__call__).parameters
    pipeline(
        prompt=["a red circle"],
        image=[source()],
        strength=1.0,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        callback_on_step_end=after_step,
        callback_on_step_end_tensor_inputs=["latents"],
        output_type="latent",
        **{name: px for name, px in sizes.items() if name in accepted},
    )

    noises = [rest / sigma for sigma, rest in zip(sigmas[:-1], rests[:-1], strict=True)]
    assert len(rests) == STEPS
    assert changed == [False] * STEPS
    assert sigmas[-1] == 0.0
    assert float(rests[-1].abs().max()) < 1e-5  # the last step ends with the source itself
    assert 0.8 < float(noises[0].std()) < 1.2
    assert all(torch.allclose(noise, noises[0], atol=1e-4) for noise in noises)


def test_composite_takes_pixels_outside_the_mask_from_the_source() -> None:
    generated = Image.new("RGB", (WIDTH, HEIGHT), "red")

    image = composite(generated, source(), right_half())

    assert image.getpixel((0, 0)) == source().getpixel((0, 0))
    assert image.getpixel((WIDTH - 1, 0)) == (255, 0, 0)
