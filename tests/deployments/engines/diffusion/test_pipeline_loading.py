"""Which of diffusers' pipelines are served, and how."""

from types import SimpleNamespace
from typing import Any

import pytest

from deployments.engines.diffusion.pipeline_loading import (
    build_redrawing,
    build_schedulers,
    check_fitness,
)


class Watched:
    """As most are."""

    num_timesteps = 0

    def __call__(self, prompt: str, callback_on_step_end: object = None) -> None:
        """Draw."""


class Unwatched:
    """As PixArt's: nothing can be heard of it, nor can it be stopped."""

    num_timesteps = 0

    def __call__(self, prompt: str, callback: object = None) -> None:
        """Draw."""


class Uncounted:
    """As PRX's: nobody knows how many steps it takes."""

    def __call__(self, prompt: str, callback_on_step_end: object = None) -> None:
        """Draw."""


def test_pipeline_that_can_be_watched_is_served() -> None:
    check_fitness(Watched())


@pytest.mark.parametrize("kind", [Unwatched, Uncounted])
def test_pipeline_that_cannot_be_watched_is_refused_by_name(kind: type) -> None:
    with pytest.raises(ValueError, match=f"{kind.__name__} is not supported"):
        check_fitness(kind())


@pytest.mark.parametrize("name", ["Flux2Pipeline", "Flux2KleinPipeline"])
def test_pipeline_that_draws_from_everybodys_pictures_draws_from_none(name: str) -> None:
    base = type(name, (Watched,), {})()

    assert build_redrawing(base) is None


def pipeline_with(scheduler: str, **settings: Any) -> Any:
    import diffusers

    return SimpleNamespace(scheduler=getattr(diffusers, scheduler)(**settings))


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("PNDMScheduler", "LCMScheduler"),
        ("EulerDiscreteScheduler", "UniPCMultistepScheduler"),
        ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"),
    ],
)
def test_scheduler_of_the_models_kind_is_allowed(own: str, name: str) -> None:
    schedulers = build_schedulers(pipeline_with(own), [name])

    assert type(schedulers[name]).__name__ == name


def test_scheduler_that_is_set_to_follow_a_flow_is_of_that_kind() -> None:
    own = pipeline_with(
        "DPMSolverMultistepScheduler", use_flow_sigmas=True, prediction_type="flow_prediction"
    )

    assert len(build_schedulers(own, ["UniPCMultistepScheduler"])) == 2


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"),
        ("DDIMScheduler", "FlowMatchEulerDiscreteScheduler"),
    ],
)
def test_scheduler_of_the_other_kind_is_refused_by_name(own: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} does not fit the model, whose own is {own}"):
        build_schedulers(pipeline_with(own), [name])


@pytest.mark.parametrize("name", ["CogVideoXDPMScheduler", "RePaintScheduler", "SCMScheduler"])
def test_scheduler_for_pipelines_of_its_own_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is not for pipelines of this kind"):
        build_schedulers(pipeline_with("DDIMScheduler"), [name])


@pytest.mark.parametrize("name", ["EulerScheduler", "UNet2DModel", "utils"])
def test_what_is_no_scheduler_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"diffusers has none of the name {name}"):
        build_schedulers(pipeline_with("DDIMScheduler"), [name])
