"""Between pictures and what a pipeline works on, in whichever form that is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

_KNOWN_VAES = frozenset({"AutoencoderDC", "AutoencoderKL", "AutoencoderTiny"})
"""Those whose latents are scaled and shifted by two numbers of their configuration."""

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as PilImage


def decode(pipeline: Any, latents: "torch.Tensor", width_px: int, height_px: int) -> "PilImage":
    """What unfinished latents look like: those of one image."""
    import torch

    vae = pipeline.vae
    if _is_packing(pipeline):
        latents = pipeline._unpack_latents(latents, height_px, width_px, pipeline.vae_scale_factor)
    with _in_safe_precision(vae), torch.no_grad():
        scaled = latents.to(vae.dtype) / vae.config.scaling_factor + _get_shift(vae)
        decoded = vae.decode(scaled, return_dict=False)[0]
    picture: PilImage = pipeline.image_processor.postprocess(decoded, output_type="pil")[0]
    return picture


def encode(pipeline: Any, picture: "PilImage") -> "torch.Tensor":
    """The latents of a picture, (1, C, h, w): always unpacked."""
    import torch

    vae = pipeline.vae
    with _in_safe_precision(vae), torch.no_grad():
        pixels = pipeline.image_processor.preprocess(picture)
        # With offload the model itself is elsewhere until it computes.
        encoded = vae.encode(pixels.to(pipeline._execution_device, vae.dtype))
    # A distribution, or for the tiny encoders the latents themselves.
    latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
    rows: torch.Tensor = (latents - _get_shift(vae)) * vae.config.scaling_factor
    return rows


def pack(pipeline: Any, latents: "torch.Tensor") -> "torch.Tensor":
    """Latents as the pipeline hands them to its callback: (N, C, h, w), or (N, h/2 · w/2, 4C)."""
    if not _is_packing(pipeline):
        return latents
    rows: torch.Tensor = pipeline._pack_latents(latents, *latents.shape)
    return rows


def find_multiple_px(pipeline: Any) -> int:
    """What width and height must be multiples of, or the pipeline refuses or changes them."""
    scale = int(pipeline.vae_scale_factor)
    if _is_packing(pipeline):
        return 2 * scale
    transformer = getattr(pipeline, "transformer", None)
    config = transformer.config if transformer is not None else {}
    # Krea 2's pipeline has it, others' transformers; Z-Image's has a list.
    one = getattr(pipeline, "patch_size", None) or config.get("patch_size") or 1
    return scale * max(map(int, config.get("all_patch_size") or [one]))


def is_readable(pipeline: Any) -> bool:
    """Whether `encode` and `decode` know the form of its latents."""
    vae = pipeline.vae
    return type(vae).__name__ in _KNOWN_VAES and not vae.config.get("latents_mean")


def _is_packing(pipeline: Any) -> bool:
    """Flux and its kin make one row of each square of four."""
    return hasattr(pipeline, "_pack_latents")


def _get_shift(vae: Any) -> float:
    return vae.config.get("shift_factor") or 0.0


@contextmanager
def _in_safe_precision(vae: Any) -> Iterator[None]:
    """SDXL's overflows in float16 (diffusers, StableDiffusionXLPipeline.__call__)."""
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
