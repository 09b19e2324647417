"""Loads a diffusers pipeline and configures it for the hardware, before its first image."""

import inspect
from collections.abc import Collection
from typing import Any

from deployments.config.diffusion import DiffusionOptions
from deployments.engines.hardware import pick_device, pick_dtype

_WITH_SHARED_REFERENCES = "Flux2"
"""Pipelines that use all input images of a batch for each of its images, whichever client's."""

_DEFAULT_PX = 1024
"""Size of models that state it nowhere in their configuration, such as Z-Image."""


def load_pipeline(model: str, options: DiffusionOptions, trust: Collection[str] = ()) -> Any:
    """Load the text-to-image pipeline of a model, on the CPU.

    Args:
        model: a local folder.
        options: how to run the model.
        trust: `code` lets the model run code of its own, `pickles` lets it be read from pickles.

    Raises:
        Exception: what diffusers raises when it cannot load the model.
    """
    from diffusers import AutoPipelineForText2Image
    from diffusers.utils import logging as diffusers_logging

    # Its warnings quote every prompt that is longer than the shorter of two encoders takes.
    diffusers_logging.set_verbosity_error()
    return AutoPipelineForText2Image.from_pretrained(
        model,
        dtype=pick_dtype(options.dtype, pick_device(options.device)),
        local_files_only=True,
        trust_remote_code="code" in trust,
        use_safetensors=None if "pickles" in trust else True,
        **options.from_pretrained,
    )


def check_supported(pipeline: Any) -> None:
    """Check that a pipeline can be watched and stopped between two steps.

    Raises:
        ValueError: the pipeline has no step callback, or does not count its steps.
    """
    has_callback = "callback_on_step_end" in inspect.signature(pipeline.__call__).parameters
    if not has_callback or not hasattr(type(pipeline), "num_timesteps"):
        name = type(pipeline).__name__
        raise ValueError(f"{name} is not supported: it cannot be stopped between two steps")


def build_img2img(base: Any) -> Any:
    """Build the img2img pipeline that shares the weights; None if the family has none."""
    from diffusers import AutoPipelineForImage2Image

    if type(base).__name__.startswith(_WITH_SHARED_REFERENCES):
        return None
    try:
        pipeline = AutoPipelineForImage2Image.from_pipe(base)
    except ValueError:
        return None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def configure(pipeline: Any, options: DiffusionOptions) -> None:
    """Move a pipeline to its device, and set the options that trade memory for time.

    Raises:
        ValueError: the pipeline does not support one of the options.
    """
    device = pick_device(options.device)
    pipeline.set_progress_bar_config(disable=True)
    if options.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif options.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
    if options.attention_slicing:
        pipeline.enable_attention_slicing()
    if options.vae_tiling:
        _enable_tiling(pipeline.vae)
    if options.vae_slicing:
        pipeline.vae.enable_slicing()
    if options.compile:
        # In place: `torch.compile` would return a wrapper, and diffusers checks classes.
        find_denoiser(pipeline).compile()
    elif device == "cpu" and options.offload == "none":
        _configure_for_cpu(pipeline, options)


def _configure_for_cpu(pipeline: Any, options: DiffusionOptions) -> None:
    import torch

    from deployments.engines.weight_packing import prepack_weights

    for part in (find_denoiser(pipeline), pipeline.vae):
        # Video VAEs have weights of five dimensions, for which there is no channels_last.
        if all(weights.dim() <= 4 for weights in part.parameters()):
            part.to(memory_format=torch.channels_last)
        if options.pack_weights and not options.loras:  # adapters change the weights
            prepack_weights(part)


def _enable_tiling(vae: Any) -> None:
    if type(vae).__name__ == "AutoencoderTiny" and vae.config.latent_channels != 4:
        # diffusers 0.42 hard-codes the number, and fails at the first edit.
        raise ValueError("vae_tiling: a tiny VAE can be tiled only if its latents have 4 channels")
    vae.enable_tiling()


def find_native_px(pipeline: Any) -> int:
    """Find the side of the images that a model was trained on; each family states it elsewhere."""
    config = find_denoiser(pipeline).config
    size = getattr(pipeline, "default_sample_size", None) or config.get("sample_size")
    if size:  # in latents
        return int(size) * int(pipeline.vae_scale_factor)
    default = inspect.signature(pipeline.__call__).parameters["height"].default
    return default or _DEFAULT_PX


def find_denoiser(pipeline: Any) -> Any:
    """Return the UNet or transformer, which takes nearly all of the time."""
    unet = getattr(pipeline, "unet", None)
    return pipeline.transformer if unet is None else unet
