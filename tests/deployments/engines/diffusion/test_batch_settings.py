from dataclasses import dataclass, field
from typing import Any

import pytest

from api.errors import InvalidRequestError, UnsupportedParameterError
from api.ports.images import Edit, ImageRequest
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.batch_settings import (
    BatchSettings,
    Mode,
    check_pixel_steps,
    count_steps_taken,
    find_max_pixel_steps,
    to_batch_settings,
)

OPTIONS = DiffusionOptions(num_inference_steps=4, guidance_scale=3.0, strength=0.5)
IMAGE = b"an image"


@dataclass
class FakePipelines:
    """Pipelines with every feature that a test does not take away."""

    can_edit: bool = True
    can_preview: bool = True
    has_guidance: bool = True
    is_flow: bool = False
    parameters: set[str] = field(default_factory=lambda: {"strength", "negative_prompt"})

    def accepts(self, parameter: str, mode: Mode = "text2img") -> bool:
        return parameter in self.parameters

    def has_scale_noise(self, scheduler: str | None) -> bool:
        return self.is_flow


def to_settings(pipelines: FakePipelines, **more: Any) -> BatchSettings:
    return to_batch_settings(ImageRequest("r", "a dot", **more), (8, 8), pipelines, OPTIONS)


def test_missing_values_are_the_models_defaults() -> None:
    settings = to_settings(FakePipelines())

    assert (settings.mode, settings.steps, settings.guidance, settings.true_cfg) == (
        "text2img",
        4,
        3.0,
        None,
    )
    assert to_settings(FakePipelines(), edit=Edit(IMAGE)).strength == 0.5


@pytest.mark.parametrize(
    ("pipelines", "more", "param"),
    [
        (FakePipelines(can_edit=False), {"edit": Edit(IMAGE)}, "image"),
        (FakePipelines(can_preview=False), {"edit": Edit(IMAGE, IMAGE)}, "mask"),
        (FakePipelines(can_preview=False), {"previews": 1}, "partial_images"),
        (FakePipelines(has_guidance=False), {"guidance_scale": 0.0}, "guidance_scale"),
        (FakePipelines(parameters=set()), {"edit": Edit(IMAGE, None, 0.5)}, "strength"),
        (FakePipelines(parameters=set()), {"negative_prompt": "a line"}, "negative_prompt"),
        (FakePipelines(), {"negative_prompt": "a line", "true_cfg_scale": 2.0}, "true_cfg_scale"),
    ],
)
def test_parameter_without_effect_is_refused(
    pipelines: FakePipelines, more: dict[str, Any], param: str
) -> None:
    with pytest.raises(UnsupportedParameterError) as failure:
        to_settings(pipelines, **more)

    assert failure.value.param == param


def test_edit_by_a_pipeline_without_strength_takes_all_steps() -> None:
    assert to_settings(FakePipelines(parameters=set()), edit=Edit(IMAGE)).strength == 1.0


def test_negative_prompt_has_a_true_cfg_scale_where_the_pipeline_has_one() -> None:
    pipelines = FakePipelines(parameters={"negative_prompt", "true_cfg_scale"})

    assert to_settings(pipelines).true_cfg is None
    assert to_settings(pipelines, negative_prompt="a line").true_cfg == OPTIONS.true_cfg_scale
    assert to_settings(pipelines, negative_prompt="a line", true_cfg_scale=2.0).true_cfg == 2.0


@pytest.mark.parametrize(
    ("parameters", "more", "named"),
    [
        ({"negative_prompt"}, {"guidance_scale": 1.0}, "guidance_scale"),
        ({"negative_prompt"}, {"guidance_scale": 0.0}, "guidance_scale"),
        ({"negative_prompt", "true_cfg_scale"}, {"true_cfg_scale": 1.0}, "true_cfg_scale"),
    ],
)
def test_negative_prompt_with_guidance_of_at_most_1_is_refused(
    parameters: set[str], more: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidRequestError, match=f"'{named}' above 1") as failure:
        to_settings(FakePipelines(parameters=parameters), negative_prompt="a line", **more)

    assert failure.value.param == "negative_prompt"


def test_weak_guidance_without_a_negative_prompt_is_allowed() -> None:
    assert to_settings(FakePipelines(), guidance_scale=1.0).guidance == 1.0
    assert to_settings(FakePipelines(), guidance_scale=1.5, negative_prompt="a line").has_negative


def test_strength_of_less_than_one_step_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"0\.1 of 4 steps is less than one") as failure:
        to_settings(FakePipelines(), edit=Edit(IMAGE, None, 0.1))

    assert failure.value.param == "strength"


@pytest.mark.parametrize(
    ("is_flow", "edit", "steps_taken"),
    [
        (False, None, 4),
        (True, None, 4),
        (False, Edit(IMAGE, None, 0.6), 2),
        (True, Edit(IMAGE, None, 0.6), 3),
        (True, Edit(IMAGE, None, 0.1), 1),
    ],
)
def test_flow_matching_rounds_an_edits_steps_up_and_others_down(
    is_flow: bool, edit: Edit | None, steps_taken: int
) -> None:
    assert to_settings(FakePipelines(is_flow=is_flow), edit=edit).steps_taken == steps_taken


@pytest.mark.parametrize(
    ("steps", "strength", "taken"), [(30, 1.0, 30), (30, 0.8, 24), (3, 0.5, 1)]
)
def test_fewer_steps_are_taken_with_less_strength(steps: int, strength: float, taken: int) -> None:
    assert count_steps_taken(steps, strength) == taken


def test_limit_of_pixel_steps_is_that_of_20_of_the_models_own_images() -> None:
    assert find_max_pixel_steps(OPTIONS, 16) == 20 * 16 * 16 * 4
    assert find_max_pixel_steps(DiffusionOptions(max_pixel_steps=100), 16) == 100


@pytest.mark.parametrize(
    ("more", "most", "param"),
    [
        ({}, 8 * 8 * 4, None),
        ({"n": 3}, 3 * 8 * 8 * 4, None),
        ({"n": 3}, 3 * 8 * 8 * 4 - 1, "n"),
        ({}, 8 * 8 * 4 - 1, "size"),
        ({"n": 2}, 8 * 8 * 4 - 1, "size"),
        ({"num_inference_steps": 5}, 8 * 8 * 5 - 1, "num_inference_steps"),
    ],
)
def test_more_pixel_steps_are_refused_with_the_parameter_that_makes_them(
    more: Any, most: int, param: str | None
) -> None:
    request = ImageRequest("r", "a dot", **more)
    settings = to_batch_settings(request, (8, 8), FakePipelines(), OPTIONS)
    options = OPTIONS.model_copy(update={"max_pixel_steps": most})

    if param is None:
        check_pixel_steps(request, settings, options)
    else:
        with pytest.raises(InvalidRequestError, match=f"more than the limit of {most}") as caught:
            check_pixel_steps(request, settings, options)
        assert caught.value.param == param
