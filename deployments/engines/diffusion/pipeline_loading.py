"""A pipeline of diffusers before its first image: loaded, tuned, and what is derived from it."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.inpainting import is_flowing
from deployments.engines.hardware import pick_device, pick_dtype

_WITH_SHARED_REFERENCES = "Flux2"
"""Pipelines that draw all images of a batch from all pictures of it, whoever sent them."""

_USUAL_PX = 1024
"""What pipelines have in their code that say it nowhere else, such as Z-Image's."""

_REHEARSED_STEPS = 8


def load_pipeline(model: str, options: DiffusionOptions) -> Any:
    """What draws from nothing, still on the CPU.

    Raises:
        Exception: whatever diffusers raises when it cannot load the model.
    """
    from diffusers import AutoPipelineForText2Image
    from diffusers.utils import logging as diffusers_logging

    # Its warnings quote prompts: of each one that is longer than the shorter of two encoders.
    diffusers_logging.set_verbosity_error()
    return AutoPipelineForText2Image.from_pretrained(
        model,
        dtype=pick_dtype(options.dtype, pick_device(options.device)),
        local_files_only=True,
        **options.from_pretrained,
    )


def check_fitness(pipeline: Any) -> None:
    """Refuse what cannot be watched while it draws.

    Raises:
        ValueError: it says nothing between two steps.
    """
    has_callback = "callback_on_step_end" in inspect.signature(pipeline.__call__).parameters
    if not has_callback or not hasattr(type(pipeline), "num_timesteps"):
        name = type(pipeline).__name__
        raise ValueError(f"{name} is not supported: it cannot be stopped between two steps")


def build_redrawing(base: Any) -> Any:
    """What draws from a picture, with the same weights; None if this family has no such thing."""
    from diffusers import AutoPipelineForImage2Image

    if type(base).__name__.startswith(_WITH_SHARED_REFERENCES):
        return None
    try:
        pipeline = AutoPipelineForImage2Image.from_pipe(base)
    except ValueError:
        return None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tune(pipeline: Any, options: DiffusionOptions) -> None:
    """Move it to where it computes, and make it trade memory for time as it is told.

    Raises:
        ValueError: it cannot.
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
        # In place: diffusers looks at the class of its parts, and a wrapper has another.
        find_denoiser(pipeline).compile()
    elif device == "cpu" and options.offload == "none":
        _tune_for_cpu(pipeline, options)


def _tune_for_cpu(pipeline: Any, options: DiffusionOptions) -> None:
    import torch

    from deployments.engines.weight_packing import prepack_weights

    for part in (find_denoiser(pipeline), pipeline.vae):
        # There is no such order of the five dimensions that VAEs of films have.
        if all(weights.dim() <= 4 for weights in part.parameters()):
            part.to(memory_format=torch.channels_last)
        if options.pack_weights and not options.loras:  # they change weights
            prepack_weights(part)


def _enable_tiling(vae: Any) -> None:
    if type(vae).__name__ == "AutoencoderTiny" and vae.config.latent_channels != 4:
        # diffusers 0.42 has the number in its code, and fails with the first edit.
        raise ValueError("vae_tiling: a tiny VAE can be tiled only if its latents have 4 channels")
    vae.enable_tiling()


def build_schedulers(pipeline: Any, names: Sequence[str]) -> Mapping[str | None, Any]:
    """Schedulers by name, with the settings of the pipeline's own, which is None's.

    Raises:
        ValueError: one is unknown to diffusers, for models of the other kind, or for pipelines that
            are made for it.
    """
    import diffusers

    own = pipeline.scheduler
    schedulers: dict[str | None, Any] = {None: own}
    for name in names:
        known: Any = getattr(diffusers, name, None)
        if not _is_scheduler(known):
            raise ValueError(f"schedulers: diffusers has none of the name {name}")
        schedulers[name] = known.from_config(own.config)
        if _follows_a_flow(schedulers[name]) != _follows_a_flow(own):
            raise ValueError(
                f"schedulers: {name} does not fit the model, whose own is {type(own).__name__}"
            )
        if not _follows_a_flow(own):
            _rehearse(name, schedulers[name])
    return schedulers


def _rehearse(name: str, scheduler: Any) -> None:
    """Take a drawing's steps with nothing in them, on a copy.

    Those of flows are asked in other ways by each family, so they are not.
    """
    import torch

    scheduler = copy.deepcopy(scheduler)
    latents = torch.zeros(1, 4, 8, 8)
    try:
        scheduler.set_timesteps(_REHEARSED_STEPS)
        for timestep in scheduler.timesteps:
            noise = scheduler.scale_model_input(latents, timestep)
            latents = scheduler.step(noise, timestep, latents, return_dict=False)[0]
    except Exception as error:  # whatever there is that it has not, or asks for
        raise ValueError(f"schedulers: {name} is not for pipelines of this kind") from error


def _is_scheduler(found: Any) -> bool:
    import diffusers

    return isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)


def _follows_a_flow(scheduler: Any) -> bool:
    """Whether it is for models that predict a velocity; some are for both, by their settings."""
    return is_flowing(scheduler) or bool(scheduler.config.get("use_flow_sigmas"))


def find_native_px(pipeline: Any) -> int:
    """The side of the images that it was trained on; where it stands differs by family."""
    config = find_denoiser(pipeline).config
    size = getattr(pipeline, "default_sample_size", None) or config.get("sample_size")
    if size:  # of the latents
        return int(size) * int(pipeline.vae_scale_factor)
    default = inspect.signature(pipeline.__call__).parameters["height"].default
    return default or _USUAL_PX


def find_denoiser(pipeline: Any) -> Any:
    """The part that takes nearly all the time."""
    unet = getattr(pipeline, "unet", None)
    return pipeline.transformer if unet is None else unet
