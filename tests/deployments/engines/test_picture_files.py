import io
import json
import struct
import time
import zlib

import pytest
from PIL import Image

from api.backends import PictureFile
from api.errors import InvalidImageFile
from deployments.engines.picture_files import flatten, read_picture, to_mask, write_picture

MOST = 20_000_000


def to_file(picture: Image.Image, format: str = "PNG", **more) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=format, **more)
    return buffer.getvalue()


def to_png(width: int, height: int, data: bytes) -> bytes:
    """A PNG that says one size, whatever is in it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_three_formats_are_read(format: str) -> None:
    picture = read_picture(to_file(Image.new("RGB", (16, 8), "red"), format), "image", MOST)

    assert (picture.size, picture.mode) == ((16, 8), "RGB")


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    format = "JPEG" if mode == "CMYK" else "PNG"

    assert read_picture(to_file(Image.new(mode, (9, 9)), format), "image", MOST).mode == "RGB"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_kept(mode: str) -> None:
    assert read_picture(to_file(Image.new(mode, (9, 9))), "image", MOST).mode == "RGBA"


def test_first_frame_of_many_is_taken() -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    data = to_file(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)

    assert read_picture(data, "image", MOST).getpixel((4, 4)) == (255, 0, 0)


def test_picture_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = to_file(Image.new("RGB", (16, 8)), "JPEG", exif=exif)

    assert read_picture(data, "image", MOST).size == (8, 16)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        to_file(Image.new("RGB", (16, 16)), "GIF"),
        to_file(Image.new("RGB", (16, 16)), "BMP"),
        to_file(Image.new("RGB", (64, 64)))[:60],
        to_file(Image.new("RGB", (64, 64)), "JPEG")[:300],
        to_png(64, 64, b"no zlib"),
        to_png(64, 64, zlib.compress(bytes(100))),
    ],
)
def test_what_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImageFile) as failure:
        read_picture(data, "mask", MOST)

    assert failure.value.param == "mask"


@pytest.mark.parametrize("size", [(5000, 5000), (65_500, 65_500), (2**31 - 1, 2**31 - 1)])
def test_bomb_is_refused_before_it_is_decoded(size: tuple[int, int]) -> None:
    data = to_png(*size, zlib.compress(bytes(10_000_000)))
    began_s = time.monotonic()

    with pytest.raises(InvalidImageFile, match=r"limit|can be read"):
        read_picture(data, "image", MOST)

    assert time.monotonic() - began_s < 0.5


def test_tiny_picture_is_refused() -> None:
    with pytest.raises(InvalidImageFile, match="smaller"):
        read_picture(to_file(Image.new("RGB", (7, 64))), "image", MOST)


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

    data = write_picture(Image.new("RGB", (8, 8)), PictureFile(), said)

    with Image.open(io.BytesIO(data)) as picture:
        assert json.loads(picture.info["triptych"]) == said


def test_png_need_not_say_it() -> None:
    data = write_picture(Image.new("RGB", (8, 8)), PictureFile())

    with Image.open(io.BytesIO(data)) as picture:
        assert picture.info == {}


@pytest.mark.parametrize("format", ["webp", "jpeg"])
def test_compression_makes_smaller_files(format: str) -> None:
    picture = Image.effect_noise((64, 64), 50).convert("RGB")

    sizes = [len(write_picture(picture, PictureFile(format, kept))) for kept in (0, 50, 100)]

    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]
