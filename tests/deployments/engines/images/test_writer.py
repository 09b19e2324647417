import io
import json

import pytest
from PIL import Image

from api.ports.images import ImageEncoding
from deployments.engines.images.writer import flatten, to_mask, write_picture


def test_what_is_clear_becomes_white() -> None:
    picture = flatten(Image.new("RGBA", (8, 8), (255, 0, 0, 0)))

    assert (picture.mode, picture.getpixel((0, 0))) == ("RGB", (255, 255, 255))


def test_clear_or_white_is_where_to_draw() -> None:
    clear = to_mask(Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
    white = to_mask(Image.new("RGB", (8, 8), "white"))
    black = to_mask(Image.new("RGB", (8, 8), "black"))

    assert [mask.getpixel((0, 0)) for mask in (clear, white, black)] == [255, 255, 0]


def test_png_says_where_it_comes_from() -> None:
    said = {"model": "a", "seed": 3}

    data = write_picture(Image.new("RGB", (8, 8)), ImageEncoding(), said)

    with Image.open(io.BytesIO(data)) as picture:
        assert json.loads(picture.info["triptych"]) == said


def test_png_need_not_say_it() -> None:
    data = write_picture(Image.new("RGB", (8, 8)), ImageEncoding())

    with Image.open(io.BytesIO(data)) as picture:
        assert picture.info == {}


@pytest.mark.parametrize("format", ["webp", "jpeg"])
def test_compression_makes_smaller_files(format: str) -> None:
    picture = Image.effect_noise((64, 64), 50).convert("RGB")

    sizes = [len(write_picture(picture, ImageEncoding(format, kept))) for kept in (0, 50, 100)]

    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]
