"""Images by the demo's own diffusion model, through the official SDK."""

import base64
import io

import numpy as np
import openai
import pytest
from PIL import Image

from tests.helpers.service import Service

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
        ({"background": "transparent"}, "background"),
        ({"output_compression": 50}, "output_compression"),
        ({"extra_body": {"scheduler": "NoScheduler"}}, "scheduler"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(service: Service, parameters: dict, param: str):
    with pytest.raises(openai.BadRequestError) as failure:
        draw(service, **{"prompt": PROMPT, **parameters})

    assert failure.value.param == param


def to_picture(encoded: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def test_stream_shows_previews_and_ends_with_the_picture(service: Service):
    stream = service.openai().images.generate(
        model=MODEL, prompt=PROMPT, stream=True, partial_images=2, extra_body={"seed": 7}
    )

    events = list(stream)

    names = [event.type.removeprefix("image_generation.") for event in events]
    assert names == ["partial_image", "partial_image", "completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    (whole,) = draw(service, prompt=PROMPT, extra_body={"seed": 7})
    last = np.asarray(to_picture(events[2].b64_json).convert("RGB"), dtype=int)
    assert np.abs(last - whole).mean() < 1
    assert events[2].usage.total_tokens > 0


def test_formats_are_what_they_say(service: Service):
    answers = [
        service.openai().images.generate(model=MODEL, prompt=PROMPT, output_format=name)
        for name in ("png", "webp", "jpeg")
    ]

    formats = [to_picture(answer.data[0].b64_json).format for answer in answers]
    assert formats == ["PNG", "WEBP", "JPEG"]


def test_half_of_a_picture_is_drawn_anew(service: Service):
    client = service.openai()
    answer = client.images.generate(model=MODEL, prompt=PROMPT, extra_body={"seed": 7})
    source = base64.b64decode(answer.data[0].b64_json)
    mask = Image.new("RGBA", (96, 96), "black")
    mask.paste((0, 0, 0, 0), (48, 0, 96, 96))
    buffer = io.BytesIO()
    mask.save(buffer, format="PNG")

    edited = client.images.edit(
        model=MODEL,
        image=source,
        mask=buffer.getvalue(),
        prompt="a blue square on a white background",
        extra_body={"strength": 0.9, "seed": 1},
    )

    before = np.asarray(to_picture(answer.data[0].b64_json).convert("RGB"), dtype=int)
    after = np.asarray(to_picture(edited.data[0].b64_json).convert("RGB"), dtype=int)
    assert np.array_equal(before[:, :48], after[:, :48])
    assert not np.array_equal(before[:, 48:], after[:, 48:])


def test_edit_streams_too(service: Service):
    buffer = io.BytesIO()
    Image.new("RGB", (96, 96), "red").save(buffer, format="PNG")
    stream = service.openai().images.edit(
        model=MODEL, image=buffer.getvalue(), prompt=PROMPT, stream=True, partial_images=1
    )

    assert [event.type for event in stream] == ["image_edit.partial_image", "image_edit.completed"]


def test_edit_of_no_picture_is_refused(service: Service):
    with pytest.raises(openai.BadRequestError) as failure:
        service.openai().images.edit(model=MODEL, image=b"RIFF....WAVEfmt ", prompt=PROMPT)

    assert (failure.value.code, failure.value.param) == ("invalid_image_file", "image")


def test_card_says_what_the_model_takes(service: Service):
    card = service.openai().models.retrieve(MODEL).model_extra["triptych"]

    assert card["kind"] == "diffusion"
    assert (card["size"], card["size_multiple_px"], card["schedulers"]) == ("96x96", 8, [])


def test_picture_of_many_megabytes_reaches_the_model(service: Service):
    """More than Serve's own limit of what travels between ingress and replica."""
    noise = np.random.default_rng(0).integers(0, 255, (1300, 1300, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")

    edited = service.openai().images.edit(
        model=MODEL,
        image=buffer.getvalue(),
        prompt=PROMPT,
        size="64x64",
        extra_body={"num_inference_steps": 2},
    )

    assert len(buffer.getvalue()) > 5_000_000
    assert len(edited.data) == 1
