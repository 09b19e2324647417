"""Images by the demo's own diffusion model, through the official SDK."""

import base64
import io

import numpy as np
import openai
import pytest
from PIL import Image

from tests.service import Service

pytestmark = pytest.mark.e2e

MODEL = "shapes"
PROMPT = "a red circle on a white background"


def draw(service: Service, **parameters) -> list[np.ndarray]:
    answer = service.openai().images.generate(model=MODEL, **parameters)
    pictures = [Image.open(io.BytesIO(base64.b64decode(item.b64_json))) for item in answer.data]
    return [np.asarray(picture.convert("RGB"), dtype=int) for picture in pictures]  # (H, W, 3)


def test_a_red_circle_is_red_in_the_middle_and_white_at_the_corners(service: Service):
    (picture,) = draw(service, prompt=PROMPT, extra_body={"seed": 7})
    height, width, _ = picture.shape
    red, green, blue = picture[height // 2, width // 2]
    corners = picture[[3, 3, -4, -4], [3, -4, 3, -4]]

    assert red > 150
    assert max(green, blue) < 100
    assert corners.min() > 200


def test_one_seed_makes_one_picture(service: Service):
    first, second = (draw(service, prompt=PROMPT, extra_body={"seed": 3})[0] for _ in range(2))
    other = draw(service, prompt=PROMPT, extra_body={"seed": 4})[0]

    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_several_pictures_in_the_size_asked_for(service: Service):
    pictures = draw(
        service, prompt=PROMPT, n=2, size="64*96", extra_body={"num_inference_steps": 4}
    )

    assert [picture.shape for picture in pictures] == [(96, 64, 3), (96, 64, 3)]


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"size": "65x64"}, "size"),
        ({"size": "9000x64"}, "size"),
        ({"size": "huge"}, "size"),
        ({"n": 11}, "n"),
        ({"response_format": "url"}, "response_format"),
        ({"prompt": "word " * 500}, "prompt"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(service: Service, parameters: dict, param: str):
    with pytest.raises(openai.BadRequestError) as failure:
        draw(service, **{"prompt": PROMPT, **parameters})

    assert failure.value.param == param
