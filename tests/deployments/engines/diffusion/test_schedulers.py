"""Which schedulers requests may choose."""

from types import SimpleNamespace
from typing import Any

import pytest

from deployments.engines.diffusion.schedulers import build_schedulers


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
def test_scheduler_of_the_models_family_is_allowed(own: str, name: str) -> None:
    schedulers = build_schedulers(pipeline_with(own), [name])

    assert type(schedulers[name]).__name__ == name


def test_scheduler_configured_for_flow_matching_is_of_that_family() -> None:
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
def test_scheduler_of_the_other_family_is_refused_by_name(own: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} does not fit the model, whose own is {own}"):
        build_schedulers(pipeline_with(own), [name])


@pytest.mark.parametrize("name", ["CogVideoXDPMScheduler", "RePaintScheduler", "SCMScheduler"])
def test_scheduler_for_special_pipelines_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is not for pipelines of this kind"):
        build_schedulers(pipeline_with("DDIMScheduler"), [name])


@pytest.mark.parametrize("name", ["EulerScheduler", "UNet2DModel", "utils"])
def test_name_that_is_no_scheduler_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"diffusers has none of the name {name}"):
        build_schedulers(pipeline_with("DDIMScheduler"), [name])
