"""Which of diffusers' pipelines are served, and how."""

import pytest

from deployments.engines.pipeline_parts import build_redrawing, check_fitness


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
