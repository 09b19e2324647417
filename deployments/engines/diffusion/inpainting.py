"""Drawing in a part of a picture only: the rest is put back after every step.

diffusers' own inpainting pipelines do the same, but only for latents of four channels; this works
with whatever redraws a picture, in one batch, and gives the same answer however large that is.
Source: Lugmayr et al., RePaint (2022), eq. 8, without resampling.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deployments.engines.diffusion.batcher import Canvas
from deployments.engines.diffusion.latents import encode, pack

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as PilImage

_SEED_OF_NOISE = 1
"""Added to an image's seed: the noise that hides what is kept is not that which it begins with."""


def is_flowing(scheduler: Any) -> bool:
    """Whether it goes straight from noise to picture (flow matching), as for SD3 and Flux."""
    return hasattr(scheduler, "scale_noise")


class Keeping:
    """What is to stay of the pictures of one batch."""

    def __init__(self, pipeline: Any, canvases: Sequence[Canvas]) -> None:
        """Encode the pictures as the pipeline would."""
        import torch

        known = torch.cat([encode(pipeline, each.image) for each in canvases])  # (N, C, h, w)
        noise = torch.cat([_to_noise(canvas.seed, known[:1]) for canvas in canvases])
        mask = torch.cat([_to_rows(canvas.mask, known[:1]) for canvas in canvases])
        self._known, self._noise = pack(pipeline, known), pack(pipeline, noise)
        self._mask = pack(pipeline, mask)
        """1 where to draw; all three are of the pipeline's own form"""

    def restore(self, pipeline: Any, step: int, latents: "torch.Tensor") -> "torch.Tensor":
        """Put back what is kept, as noisy as the rest of it is after this step."""
        scheduler = pipeline.scheduler
        # A redrawing pipeline takes the last of the scheduler's steps only.
        following = len(scheduler.timesteps) - pipeline.num_timesteps + step + 1
        known = self._known
        if following < len(scheduler.timesteps):
            at = scheduler.timesteps[following : following + 1]
            if is_flowing(scheduler):
                known = scheduler.scale_noise(known, at, self._noise)
            else:
                known = scheduler.add_noise(known, self._noise, at)
        return ((1 - self._mask) * known + self._mask * latents).to(latents.dtype)


def _to_noise(seed: int, like: "torch.Tensor") -> "torch.Tensor":
    import torch

    generator = torch.Generator("cpu").manual_seed((seed + _SEED_OF_NOISE) % 2**63)
    return torch.randn(like.shape, generator=generator).to(like.device, like.dtype)


def _to_rows(mask: "PilImage", like: "torch.Tensor") -> "torch.Tensor":
    import numpy as np
    import torch
    from PIL import Image

    height, width = like.shape[-2:]
    values = np.asarray(mask.resize((width, height), Image.Resampling.BOX), dtype=np.float32)
    rows = torch.from_numpy((values > 0).astype(np.float32)).to(like.device, like.dtype)
    return rows.expand_as(like)  # a packed one has the channels of one place side by side


def put_back(drawn: "PilImage", image: "PilImage", mask: "PilImage") -> "PilImage":
    """The drawn picture with every pixel outside the mask as it was."""
    from PIL import Image

    return Image.composite(drawn, image, mask)
