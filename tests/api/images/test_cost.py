from dataclasses import replace
from typing import Any

import pytest

from api.images.cost import count_pixel_steps
from api.ports.images import ImageRequest

REQUEST = ImageRequest("req_1", "a dot")
CARD = {"size": "512x256", "num_inference_steps": 20, "qualities": {"low": 5}}


@pytest.mark.parametrize(
    ("fields", "pixel_steps"),
    [
        ({}, 512 * 256 * 20),
        ({"n": 3}, 3 * 512 * 256 * 20),
        ({"width_px": 64, "height_px": 32}, 64 * 32 * 20),
        ({"num_inference_steps": 7}, 512 * 256 * 7),
        ({"quality": "low"}, 512 * 256 * 5),
        ({"quality": "low", "num_inference_steps": 7}, 512 * 256 * 7),
        ({"quality": "high"}, 512 * 256 * 20),
    ],
)
def test_cost_is_pixels_times_steps_times_images(fields: Any, pixel_steps: int) -> None:
    assert count_pixel_steps(replace(REQUEST, **fields), CARD) == pixel_steps


def test_model_that_has_never_been_loaded_is_taken_for_a_usual_one() -> None:
    assert count_pixel_steps(REQUEST, {}) == 1024 * 1024 * 30
