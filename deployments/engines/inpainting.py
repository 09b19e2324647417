"""Drawing in a part of a picture only: the rest is put back after every step.

diffusers' own inpainting pipelines do the same, but only for latents of four channels; this works
with whatever redraws a picture, in one batch, and gives the same answer however large that is.
Source: Lugmayr et al., RePaint (2022), eq. 8, without resampling.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deployments.engines.image_batches import Canvas

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as PilImage

_SEED_OF_NOISE = 1
"""Added to an image's seed: the noise that hides what is kept is not that which it begins with."""


class Keeping:
    """What is to stay of the pictures of one batch."""

    def __init__(self, pipeline: Any, canvases: Sequence[Canvas]) -> None:
        """Encode the pictures as the pipeline would."""
        import torch

        self._known = torch.cat([_encode(pipeline, each.image) for each in canvases])
        """(N, C, h, w)"""
        like = self._known[:1]
        self._noise = torch.cat([_to_noise(canvas.seed, like) for canvas in canvases])
        size = self._known.shape[-2:]
        self._mask = torch.cat([_to_rows(canvas.mask, size, like) for canvas in canvases])
        """(N, 1, h, w), 1 where to draw"""

    def restore(self, pipeline: Any, step: int, latents: "torch.Tensor") -> "torch.Tensor":
        """Put back what is kept, as noisy as the rest of it is after this step."""
        scheduler = pipeline.scheduler
        # A redrawing pipeline takes the last of the scheduler's steps only.
        following = len(scheduler.timesteps) - pipeline.num_timesteps + step + 1
        known = self._known
        if following < len(scheduler.timesteps):
            at = scheduler.timesteps[following : following + 1]
            known = scheduler.add_noise(known, self._noise, at)
        return ((1 - self._mask) * known + self._mask * latents).to(latents.dtype)

    def cut(self, kept: Sequence[int]) -> None:
        """Forget all but some."""
        rows = list(kept)
        self._known, self._noise = self._known[rows], self._noise[rows]
        self._mask = self._mask[rows]


def _encode(pipeline: Any, picture: "PilImage") -> "torch.Tensor":
    import torch

    vae = pipeline.vae
    pixels = pipeline.image_processor.preprocess(picture).to(vae.device, vae.dtype)
    with torch.no_grad():
        encoded = vae.encode(pixels)
    # A distribution, or for the tiny encoders the latents themselves.
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    rows: torch.Tensor = latents * vae.config.scaling_factor
    return rows


def _to_noise(seed: int, like: "torch.Tensor") -> "torch.Tensor":
    import torch

    generator = torch.Generator("cpu").manual_seed((seed + _SEED_OF_NOISE) % 2**63)
    return torch.randn(like.shape, generator=generator).to(like.device, like.dtype)


def _to_rows(mask: "PilImage", size: Sequence[int], like: "torch.Tensor") -> "torch.Tensor":
    import numpy as np
    import torch
    from PIL import Image

    height, width = size
    values = np.asarray(mask.resize((width, height), Image.Resampling.BOX), dtype=np.float32)
    return torch.from_numpy((values > 0).astype(np.float32))[None, None].to(like.device, like.dtype)


def put_back(drawn: "PilImage", image: "PilImage", mask: "PilImage") -> "PilImage":
    """The drawn picture with every pixel outside the mask as it was."""
    from PIL import Image

    return Image.composite(drawn, image, mask)
