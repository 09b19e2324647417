from dataclasses import dataclass, field
from typing import Any

import pytest

from api.errors import InvalidRequestError, UnsupportedParameterError
from api.ports.images import Edit, ImageRequest
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.batch_settings import to_recipe
from deployments.engines.diffusion.batcher import Mode, Recipe

OPTIONS = DiffusionOptions(num_inference_steps=4, guidance_scale=3.0, strength=0.5)
PICTURE = b"a picture"


@dataclass
class Having:
    """Pipelines that have all but what a test takes away."""

    can_edit: bool = True
    can_look_inside: bool = True
    has_guidance: bool = True
    parameters: set[str] = field(default_factory=lambda: {"strength", "negative_prompt"})

    def accepts(self, parameter: str, mode: Mode = "new") -> bool:
        return parameter in self.parameters

    def count_steps(self, recipe: Recipe) -> int:
        return int(recipe.steps * recipe.strength)


def read(having: Having, **more: Any) -> Recipe:
    return to_recipe(ImageRequest("r", "a dot", **more), (8, 8), having, OPTIONS)  # type: ignore[arg-type]


def test_defaults_are_the_models() -> None:
    recipe = read(Having())

    assert (recipe.mode, recipe.steps, recipe.guidance, recipe.true_cfg) == ("new", 4, 3.0, None)
    assert read(Having(), edit=Edit(PICTURE)).strength == 0.5


@pytest.mark.parametrize(
    ("having", "more", "param"),
    [
        (Having(can_edit=False), {"edit": Edit(PICTURE)}, "image"),
        (Having(can_look_inside=False), {"edit": Edit(PICTURE, PICTURE)}, "mask"),
        (Having(can_look_inside=False), {"previews": 1}, "partial_images"),
        (Having(has_guidance=False), {"guidance_scale": 0.0}, "guidance_scale"),
        (Having(parameters=set()), {"edit": Edit(PICTURE, None, 0.5)}, "strength"),
        (Having(parameters=set()), {"negative_prompt": "a line"}, "negative_prompt"),
        (Having(), {"negative_prompt": "a line", "true_cfg_scale": 2.0}, "true_cfg_scale"),
    ],
)
def test_what_the_pipeline_would_not_notice_is_refused(
    having: Having, more: dict[str, Any], param: str
) -> None:
    with pytest.raises(UnsupportedParameterError) as failure:
        read(having, **more)

    assert failure.value.param == param


def test_pipeline_without_strength_draws_all_steps_of_an_edit() -> None:
    assert read(Having(parameters=set()), edit=Edit(PICTURE)).strength == 1.0


def test_negative_prompt_has_a_weight_where_guidance_is_something_else() -> None:
    having = Having(parameters={"negative_prompt", "true_cfg_scale"})

    assert read(having).true_cfg is None
    assert read(having, negative_prompt="a line").true_cfg == OPTIONS.true_cfg_scale
    assert read(having, negative_prompt="a line", true_cfg_scale=2.0).true_cfg == 2.0


@pytest.mark.parametrize(
    ("parameters", "more", "named"),
    [
        ({"negative_prompt"}, {"guidance_scale": 1.0}, "guidance_scale"),
        ({"negative_prompt"}, {"guidance_scale": 0.0}, "guidance_scale"),
        ({"negative_prompt", "true_cfg_scale"}, {"true_cfg_scale": 1.0}, "true_cfg_scale"),
    ],
)
def test_negative_prompt_without_guidance_away_from_it_is_refused(
    parameters: set[str], more: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidRequestError, match=f"'{named}' above 1") as failure:
        read(Having(parameters=parameters), negative_prompt="a line", **more)

    assert failure.value.param == "negative_prompt"


def test_weak_guidance_needs_no_negative_prompt() -> None:
    assert read(Having(), guidance_scale=1.0).guidance == 1.0
    assert read(Having(), guidance_scale=1.5, negative_prompt="a line").has_negative
