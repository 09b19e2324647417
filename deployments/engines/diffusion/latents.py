"""Converts between images and a pipeline's latents, whichever form these have."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

_KNOWN_VAES = frozenset({"AutoencoderDC", "AutoencoderKL", "AutoencoderTiny"})
"""VAEs whose latents are scaled and shifted by two numbers of their configuration."""

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as PilImage


def decode(pipeline: Any, latents: "torch.Tensor", width_px: int, height_px: int) -> "PilImage":
    """Decode the latents of one image, finished or not.

    Args:
        pipeline: a pipeline for which `can_decode` holds.
        latents: as the pipeline passes them to its callback: (1, C, h, w), or packed
            (1, h/2 · w/2, 4C).
        width_px: of the image.
        height_px: of the image.

    Returns:
        An RGB image.
    """
    import torch

    vae = pipeline.vae
    if _packs_latents(pipeline):
        latents = pipeline._unpack_latents(latents, height_px, width_px, pipeline.vae_scale_factor)
    with _safe_precision(vae), torch.no_grad():
        scaled = latents.to(vae.dtype) / vae.config.scaling_factor + _get_shift(vae)
        decoded = vae.decode(scaled, return_dict=False)[0]  # (1, 3, H, W), -1 to 1
    image: PilImage = pipeline.image_processor.postprocess(decoded, output_type="pil")[0]
    return image


def encode(pipeline: Any, image: "PilImage") -> "torch.Tensor":
    """Encode one image.

    Args:
        pipeline: a pipeline for which `can_decode` holds.
        image: RGB, of the size to generate.

    Returns:
        Scaled latents, (1, C, h, w): not packed, whatever the pipeline.
    """
    import torch

    vae = pipeline.vae
    with _safe_precision(vae), torch.no_grad():
        pixels = pipeline.image_processor.preprocess(image)  # (1, 3, H, W) float32, -1 to 1
        # With offload, `vae.device` is the CPU until the VAE computes.
        encoded = vae.encode(pixels.to(pipeline._execution_device, vae.dtype))
    # Tiny VAEs return the latents themselves, the others a distribution.
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    scaled: torch.Tensor = (latents - _get_shift(vae)) * vae.config.scaling_factor
    return scaled


def pack(pipeline: Any, latents: "torch.Tensor") -> "torch.Tensor":
    """Bring latents into the form that the pipeline passes to its callback.

    Args:
        pipeline: decides the form.
        latents: (N, C, h, w).

    Returns:
        (N, C, h, w), or packed (N, h/2 · w/2, 4C).
    """
    if not _packs_latents(pipeline):
        return latents
    packed: torch.Tensor = pipeline._pack_latents(latents, *latents.shape)
    return packed


def find_multiple_px(pipeline: Any) -> int:
    """Find what width and height must be multiples of; pipelines refuse or change other sizes."""
    scale = int(pipeline.vae_scale_factor)
    if _packs_latents(pipeline):
        return 2 * scale
    transformer = getattr(pipeline, "transformer", None)
    config = transformer.config if transformer is not None else {}
    # Krea 2's pipeline has the patch size; for others it is in the transformer; Z-Image has a list.
    patch_size = getattr(pipeline, "patch_size", None) or config.get("patch_size") or 1
    return scale * max(map(int, config.get("all_patch_size") or [patch_size]))


def can_decode(pipeline: Any) -> bool:
    """Whether `encode` and `decode` know the form of the pipeline's latents."""
    vae = pipeline.vae
    return type(vae).__name__ in _KNOWN_VAES and not vae.config.get("latents_mean")


def _packs_latents(pipeline: Any) -> bool:
    """Flux and its relatives turn each square of 2 × 2 latents into one row."""
    return hasattr(pipeline, "_pack_latents")


def _get_shift(vae: Any) -> float:
    return vae.config.get("shift_factor") or 0.0


@contextmanager
def _safe_precision(vae: Any) -> Iterator[None]:
    """Upcast the VAE where it overflows in float16, as SDXL's does.

    Source: diffusers, `StableDiffusionXLPipeline.__call__`.
    """
    import torch

    is_upcast = vae.dtype == torch.float16 and vae.config.get("force_upcast")
    if not is_upcast:
        yield
        return
    vae.to(torch.float32)
    try:
        yield
    finally:
        vae.to(torch.float16)
