"""Diffusers' schedulers: the ones requests may choose, and what differs between their families."""

import copy
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_DRY_RUN_STEPS = 8


def build_schedulers(pipeline: Any, names: Sequence[str]) -> Mapping[str | None, Any]:
    """Build schedulers by class name, configured like the pipeline's own, which is under None.

    Raises:
        ValueError: diffusers does not have the class, or it is for the other family of models, or
            for special pipelines only.
    """
    import diffusers

    own = pipeline.scheduler
    schedulers: dict[str | None, Any] = {None: own}
    for name in names:
        found: Any = getattr(diffusers, name, None)
        if not _is_scheduler(found):
            raise ValueError(f"schedulers: diffusers has none of the name {name}")
        schedulers[name] = found.from_config(own.config)
        if uses_flow_matching(schedulers[name]) != uses_flow_matching(own):
            raise ValueError(
                f"schedulers: {name} does not fit the model, whose own is {type(own).__name__}"
            )
        if not uses_flow_matching(own):
            _dry_run(name, schedulers[name])
    return schedulers


def _dry_run(name: str, scheduler: Any) -> None:
    """Step a copy of a scheduler over zeros, as a pipeline would.

    Flow-matching schedulers are not tried: each family of pipelines calls them differently.
    """
    import torch

    scheduler = copy.deepcopy(scheduler)
    latents = torch.zeros(1, 4, 8, 8)  # (N, C, h, w)
    try:
        scheduler.set_timesteps(_DRY_RUN_STEPS)
        for timestep in scheduler.timesteps:
            noise = scheduler.scale_model_input(latents, timestep)
            latents = scheduler.step(noise, timestep, latents, return_dict=False)[0]
    except Exception as error:  # any: it may lack a method, or need arguments that we do not have
        raise ValueError(f"schedulers: {name} is not for pipelines of this kind") from error


def _is_scheduler(found: Any) -> bool:
    import diffusers

    return isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)


def has_scale_noise(scheduler: Any) -> bool:
    """Whether the class is one of flow matching's, which add noise by `scale_noise`."""
    return hasattr(scheduler, "scale_noise")


def uses_flow_matching(scheduler: Any) -> bool:
    """Whether the scheduler is for models that predict a velocity, such as SD3 and Flux.

    Some classes of the other family are too, if configured so.
    """
    return has_scale_noise(scheduler) or bool(scheduler.config.get("use_flow_sigmas"))


@contextmanager
def per_image_noise(scheduler: Any, generators: "list[torch.Generator]") -> Iterator[None]:
    """Make the noise that a scheduler adds in its steps depend on each image's own seed.

    Flow-matching pipelines do not pass their generators to `step`, which then takes the noise from
    PyTorch's global generator (diffusers 0.42).
    """
    step = scheduler.step
    if "generator" not in inspect.signature(step).parameters:
        yield
        return

    @functools.wraps(step)  # pipelines inspect its parameters
    def seeded(*args: Any, **kwargs: Any) -> Any:
        return step(*args, **{"generator": generators, **kwargs})

    scheduler.step = seeded
    try:
        yield
    finally:
        del scheduler.step
