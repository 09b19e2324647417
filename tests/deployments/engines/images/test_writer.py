import io
import json

import pytest
from PIL import Image

from api.ports.images import ImageEncoding
from deployments.engines.images.writer import flatten, to_mask, write_image


def test_flatten_makes_transparent_pixels_white() -> None:
    image = flatten(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))

    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (255, 255, 255))


def test_mask_is_white_where_the_input_is_transparent_or_white() -> None:
    clear = to_mask(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
    white = to_mask(Image.new("RGB", (8, 8), "white"))
    black = to_mask(Image.new("RGB", (8, 8), "black"))

    assert [mask.getpixel((0, 0)) for mask in (clear, white, black)] == [255, 255, 0]


def test_png_stores_its_provenance() -> None:
    provenance = {"model": "a", "seed": 3}

    data = write_image(Image.new("RGB", (8, 8)), ImageEncoding(), provenance)

    with Image.open(io.BytesIO(data)) as image:
        assert json.loads(image.info["triptych"]) == provenance


def test_png_without_provenance_stores_nothing() -> None:
    data = write_image(Image.new("RGB", (8, 8)), ImageEncoding())

    with Image.open(io.BytesIO(data)) as image:
        assert image.info == {}


@pytest.mark.parametrize("format", ["webp", "jpeg"])
def test_lower_quality_makes_smaller_files(format: str) -> None:
    image = Image.effect_noise((64, 64), 50).convert("RGB")

    sizes = [len(write_image(image, ImageEncoding(format, quality))) for quality in (0, 50, 100)]

    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]
