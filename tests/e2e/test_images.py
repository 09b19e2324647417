"""Images by the demo's own diffusion model, through the official SDK."""

import base64

import numpy as np
import openai
import pytest
from PIL import Image

from tests.helpers.generated_images import decode_image, to_png
from tests.helpers.service import Service

pytestmark = pytest.mark.e2e

MODEL = "shapes"
PROMPT = "a red circle on a white background"


def draw(service: Service, **parameters) -> list[np.ndarray]:
    answer = service.openai().images.generate(model=MODEL, **parameters)
    return [to_array(item.b64_json) for item in answer.data]


def to_array(encoded: str) -> np.ndarray:
    return np.asarray(decode_image(encoded).convert("RGB"), dtype=int)  # (H, W, 3)


def test_red_circle_is_red_in_the_middle_and_white_at_the_corners(service: Service):
    (image,) = draw(service, prompt=PROMPT, extra_body={"seed": 7})
    height, width, _ = image.shape
    red, green, blue = image[height // 2, width // 2]
    corners = image[[3, 3, -4, -4], [3, -4, 3, -4]]

    assert red > 150
    assert max(green, blue) < 100
    assert corners.min() > 200


def test_same_seed_yields_the_same_image_and_another_seed_another(service: Service):
    first, second = (draw(service, prompt=PROMPT, extra_body={"seed": 3})[0] for _ in range(2))
    other = draw(service, prompt=PROMPT, extra_body={"seed": 4})[0]

    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_two_images_have_the_requested_size(service: Service):
    images = draw(service, prompt=PROMPT, n=2, size="64*96", extra_body={"num_inference_steps": 4})

    assert [image.shape for image in images] == [(96, 64, 3), (96, 64, 3)]


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
def test_invalid_parameter_is_rejected_by_name(service: Service, parameters: dict, param: str):
    with pytest.raises(openai.BadRequestError) as failure:
        draw(service, **{"prompt": PROMPT, **parameters})

    assert failure.value.param == param


def test_stream_sends_previews_and_ends_with_the_completed_image(service: Service):
    stream = service.openai().images.generate(
        model=MODEL, prompt=PROMPT, stream=True, partial_images=2, extra_body={"seed": 7}
    )

    events = list(stream)

    names = [event.type.removeprefix("image_generation.") for event in events]
    assert names == ["partial_image", "partial_image", "completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    (whole,) = draw(service, prompt=PROMPT, extra_body={"seed": 7})
    assert np.abs(to_array(events[2].b64_json) - whole).mean() < 1
    assert events[2].usage.total_tokens > 0


def test_image_file_has_the_requested_format(service: Service):
    answers = [
        service.openai().images.generate(model=MODEL, prompt=PROMPT, output_format=name)
        for name in ("png", "webp", "jpeg")
    ]

    formats = [decode_image(answer.data[0].b64_json).format for answer in answers]
    assert formats == ["PNG", "WEBP", "JPEG"]


def test_masked_half_is_redrawn_and_the_other_half_unchanged(service: Service):
    client = service.openai()
    answer = client.images.generate(model=MODEL, prompt=PROMPT, extra_body={"seed": 7})
    source = base64.b64decode(answer.data[0].b64_json)
    mask = Image.new("RGBA", (96, 96), "black")
    mask.paste((0, 0, 0, 0), (48, 0, 96, 96))

    edited = client.images.edit(
        model=MODEL,
        image=source,
        mask=to_png(mask),
        prompt="a blue square on a white background",
        extra_body={"strength": 0.9, "seed": 1},
    )

    before, after = to_array(answer.data[0].b64_json), to_array(edited.data[0].b64_json)
    assert np.array_equal(before[:, :48], after[:, :48])
    assert not np.array_equal(before[:, 48:], after[:, 48:])


def test_edit_stream_sends_previews_and_ends_with_the_completed_image(service: Service):
    image = to_png(Image.new("RGB", (96, 96), "red"))
    stream = service.openai().images.edit(
        model=MODEL, image=image, prompt=PROMPT, stream=True, partial_images=1
    )

    assert [event.type for event in stream] == ["image_edit.partial_image", "image_edit.completed"]


def test_edit_of_a_file_that_is_no_image_is_rejected(service: Service):
    with pytest.raises(openai.BadRequestError) as failure:
        service.openai().images.edit(model=MODEL, image=b"RIFF....WAVEfmt ", prompt=PROMPT)

    assert (failure.value.code, failure.value.param) == ("invalid_image_file", "image")


def test_model_card_shows_kind_sizes_and_schedulers(service: Service):
    card = service.openai().models.retrieve(MODEL).model_extra["triptych"]

    assert card["kind"] == "diffusion"
    assert (card["size"], card["size_multiple_px"], card["schedulers"]) == ("96x96", 8, [])


def test_image_of_many_megabytes_reaches_the_model(service: Service):
    """Larger than Serve's own limit for messages between ingress and replica."""
    noise = np.random.default_rng(0).integers(0, 255, (1300, 1300, 3), dtype=np.uint8)
    image = to_png(Image.fromarray(noise))

    edited = service.openai().images.edit(
        model=MODEL,
        image=image,
        prompt=PROMPT,
        size="64x64",
        extra_body={"num_inference_steps": 2},
    )

    assert len(image) > 5_000_000
    assert len(edited.data) == 1
