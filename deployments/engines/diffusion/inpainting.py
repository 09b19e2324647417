"""Inpainting: after every step, latents outside the mask are replaced by the source image's.

diffusers' own inpainting pipelines do the same, but only for latents of four channels. This works
with every img2img pipeline, in a batch, and an image does not depend on the size of its batch.
Source: Lugmayr et al., RePaint (2022), eq. 8, without resampling.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deployments.engines.diffusion.latents import encode, pack
from deployments.engines.diffusion.schedulers import has_scale_noise

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as PilImage

_NOISE_SEED_OFFSET = 1
"""Added to an image's seed, so that this noise is not the noise that the image starts from."""


class MaskedLatents:
    """Source latents, noise and masks of one batch, all packed as the pipeline packs latents."""

    def __init__(
        self,
        pipeline: Any,
        images: "Sequence[PilImage]",
        masks: "Sequence[PilImage]",
        seeds: Sequence[int],
    ) -> None:
        """Encode the source images as the pipeline does.

        Args:
            pipeline: an img2img pipeline.
            images: N source images, RGB, of one size.
            masks: N masks, mode L, of the same size: white where to change the image.
            seeds: N seeds, for the noise on what is kept.
        """
        import torch

        source = torch.cat([encode(pipeline, image) for image in images])  # (N, C, h, w)
        noise = torch.cat([_to_noise(seed, source[:1]) for seed in seeds])  # (N, C, h, w)
        mask = torch.cat([_to_latent_mask(each, source[:1]) for each in masks])  # (N, C, h, w)
        self._source = pack(pipeline, source)
        self._noise = pack(pipeline, noise)
        self._mask = pack(pipeline, mask)  # 1 where to change the image, else 0

    def restore(self, pipeline: Any, step: int, latents: "torch.Tensor") -> "torch.Tensor":
        """Replace latents outside the mask by the source's, with as much noise as step `step` left.

        Args:
            pipeline: the running pipeline.
            step: the step just taken, counted from 0.
            latents: packed, (N, C, h, w) or (N, h/2 · w/2, 4C).

        Returns:
            Latents of the same shape and dtype.
        """
        scheduler = pipeline.scheduler
        # An img2img pipeline takes only the last `num_timesteps` of the scheduler's steps.
        following = len(scheduler.timesteps) - pipeline.num_timesteps + step + 1
        source = self._source
        if following < len(scheduler.timesteps):
            timestep = scheduler.timesteps[following : following + 1]  # (1,)
            if has_scale_noise(scheduler):
                source = scheduler.scale_noise(source, timestep, self._noise)
            else:
                source = scheduler.add_noise(source, self._noise, timestep)
        return ((1 - self._mask) * source + self._mask * latents).to(latents.dtype)


def _to_noise(seed: int, like: "torch.Tensor") -> "torch.Tensor":
    """Draw Gaussian noise of the shape, device and dtype of `like`, (1, C, h, w)."""
    import torch

    # On the CPU whatever the device, so that a seed yields the same image everywhere.
    generator = torch.Generator("cpu").manual_seed((seed + _NOISE_SEED_OFFSET) % 2**63)
    return torch.randn(like.shape, generator=generator).to(like.device, like.dtype)


def _to_latent_mask(mask: "PilImage", like: "torch.Tensor") -> "torch.Tensor":
    """Scale a mask down to (1, C, h, w) like latents: 1 wherever any of its pixels is white."""
    import numpy as np
    import torch
    from PIL import Image

    height, width = like.shape[-2:]
    values = np.asarray(mask.resize((width, height), Image.Resampling.BOX), dtype=np.float32)
    rows = torch.from_numpy((values > 0).astype(np.float32))  # (h, w)
    # All channels: packing puts the channels of one position side by side.
    return rows.to(like.device, like.dtype).expand_as(like)


def composite(generated: "PilImage", source: "PilImage", mask: "PilImage") -> "PilImage":
    """Return the generated image with every pixel outside the mask taken from the source."""
    from PIL import Image

    return Image.composite(generated, source, mask)
