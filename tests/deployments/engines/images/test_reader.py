"""With the real decoder process, and files that attack it."""

import asyncio
import random
import struct
import time
import zlib
from collections.abc import Iterator

import psutil
import pytest
from PIL import Image

from api.errors import InvalidImageError, InvalidImageFileError
from deployments.engines.images.reader import ImageReader
from tests.helpers.image_files import NOISE, SQUARE, endless_jpeg, to_file

MAX_PIXELS = 20_000_000


@pytest.fixture(scope="module")
def reader() -> Iterator[ImageReader]:
    reader = ImageReader(MAX_PIXELS)
    yield reader
    reader.shut_down()


def cpu_time_s(reader: ImageReader) -> float:
    """CPU time of both processes: wall-clock time depends on what else the machine does."""
    child = psutil.Process(reader.pid).cpu_times()
    return time.process_time() + child.user + child.system


def to_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def to_png(
    width: int, height: int, data: bytes, *more: tuple[bytes, bytes], depth: int = 8
) -> bytes:
    """A PNG whose header gives this size, whatever its data hold."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0 if depth == 1 else 2, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(to_chunk(*chunk) for chunk in chunks)


def to_webp(width: int, height: int) -> bytes:
    """An animated WebP whose header gives this size, with a frame of 16 by 16."""
    frame = to_file(Image.new("RGB", (16, 16)), "WEBP")[12:]
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    small = b"".join((16 - 1).to_bytes(3, "little") for _ in range(2))
    chunks = [
        (b"VP8X", b"\x02\0\0\0" + sides),
        (b"ANIM", bytes(6)),
        (b"ANMF", bytes(6) + small + bytes(4) + frame),
    ]
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
        for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


ZEROS = zlib.compress(bytes(10_000_000))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
async def test_png_jpeg_and_webp_are_decoded(reader: ImageReader, format: str) -> None:
    image = await reader.read(to_file(Image.new("RGB", (16, 8), "red"), format), "image")

    red, green, blue = image.getpixel((5, 5))
    assert (image.size, image.mode) == ((16, 8), "RGB")
    assert (red > 250, green < 5, blue < 5) == (True, True, True)


async def test_lossless_pixels_are_unchanged(reader: ImageReader) -> None:
    clear = NOISE.copy()
    clear.putalpha(Image.effect_noise((64, 64), 90))

    images = [await reader.read(to_file(image), "image") for image in (NOISE, clear)]

    assert [image.mode for image in images] == ["RGB", "RGBA"]
    assert [image.tobytes() for image in images] == [NOISE.tobytes(), clear.tobytes()]


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16", "CMYK"])
async def test_other_modes_become_rgb(reader: ImageReader, mode: str) -> None:
    format = "JPEG" if mode == "CMYK" else "PNG"

    assert (await reader.read(to_file(Image.new(mode, (9, 9)), format), "image")).mode == "RGB"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
async def test_transparency_is_kept(reader: ImageReader, mode: str) -> None:
    assert (await reader.read(to_file(Image.new(mode, (9, 9))), "image")).mode == "RGBA"


@pytest.mark.parametrize("format", ["WEBP", "PNG"])
async def test_animation_yields_its_first_frame(reader: ImageReader, format: str) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue", "lime")]
    more = {"lossless": True} if format == "WEBP" else {}
    data = to_file(frames[0], format, save_all=True, append_images=frames[1:], **more)

    image = await reader.read(data, "image")

    assert image.convert("RGB").getpixel((4, 4)) == (255, 0, 0)


async def test_exif_orientation_is_applied(reader: ImageReader) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = to_file(Image.new("RGB", (16, 8)), "JPEG", exif=exif)

    assert (await reader.read(data, "image")).size == (8, 16)


async def test_image_of_the_maximum_size_is_decoded(reader: ImageReader) -> None:
    """The memory limit leaves room for every allowed size."""
    data = to_file(Image.new("RGBA", (5000, 4000), "red"), "WEBP", lossless=True, method=0)

    assert (await reader.read(data, "image")).size == (5000, 4000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        to_file(SQUARE, "GIF"),
        to_file(SQUARE, "GIF", save_all=True, append_images=[NOISE] * 50),
        to_file(SQUARE, "BMP"),
        to_file(SQUARE, "TIFF"),
        to_file(SQUARE, "JPEG2000"),
        to_file(SQUARE, "EPS"),
        b"8BPS\0\1" + bytes(100),
        b"SIMPLE  =                    T" + bytes(4000),
        b"%PDF-1.7\n" + to_file(SQUARE),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>" + to_file(SQUARE),
        b"\x89PNG\r\n\x1a\n" + to_file(NOISE, "JPEG"),
        b"\xff\xd8\xff" + to_file(NOISE),
        to_file(NOISE)[:60],
        to_file(NOISE)[:-2000],
        to_file(NOISE, "JPEG")[:300],
        to_file(NOISE, "JPEG")[:-500],
        to_file(NOISE, "WEBP")[:-500],
        to_png(0, 0, b""),
        to_png(64, 64, b"no zlib"),
        to_png(64, 64, zlib.compress(bytes(100))),
        to_png(64, 64, ZEROS, (b"iCCP", b"a\0\0" + zlib.compress(bytes(100_000_000)))),
        to_png(64, 64, ZEROS, *[(b"zTXt", b"a\0\0" + ZEROS)] * 50),
        to_png(64, 64, ZEROS, (b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(100_000_000)))),
        to_webp(16_000, 16_000),
        to_webp(2**24, 2**24),
    ],
)
async def test_unreadable_file_is_refused_at_once(reader: ImageReader, data: bytes) -> None:
    await reader.read(to_file(SQUARE), "image")  # starts the decoder
    spent_s = cpu_time_s(reader)

    with pytest.raises(InvalidImageFileError) as failure:
        await reader.read(data, "mask")

    assert cpu_time_s(reader) - spent_s < 0.5
    assert failure.value.param == "mask"
    assert "0x" not in failure.value.message


@pytest.mark.parametrize(
    ("width", "height", "depth"),
    [(5000, 5000, 8), (50_000, 50_000, 1), (65_535, 65_535, 8), (2**31 - 1, 2**31 - 1, 8)],
)
async def test_decompression_bomb_is_refused_before_decoding(
    reader: ImageReader, width: int, height: int, depth: int
) -> None:
    await reader.read(to_file(SQUARE), "image")
    decoder = psutil.Process(reader.pid)
    before = decoder.memory_info().rss
    spent_s = cpu_time_s(reader)

    with pytest.raises(
        InvalidImageFileError, match=f"{width} by {height} is more than {MAX_PIXELS}"
    ):
        await reader.read(to_png(width, height, ZEROS, depth=depth), "image")

    assert cpu_time_s(reader) - spent_s < 0.5
    assert decoder.memory_info().rss - before < 20 * 1024**2


async def test_too_small_image_is_refused(reader: ImageReader) -> None:
    with pytest.raises(InvalidImageFileError, match="7 by 64 pixels: each side"):
        await reader.read(to_file(Image.new("RGB", (7, 64))), "image")


async def test_configured_error_class_is_raised() -> None:
    reader = ImageReader(100, InvalidImageError)

    with pytest.raises(InvalidImageError, match="64 by 64 is more than 100 pixels"):
        await reader.read(to_file(SQUARE), "messages")
    reader.shut_down()


async def test_hundred_bombs_leak_no_memory(reader: ImageReader) -> None:
    """Neither in the decoder nor here, because no pixels of a refused image come back."""
    bombs = [to_png(4000, 4900, ZEROS), to_png(64, 64, ZEROS, (b"zTXt", b"a\0\0" + ZEROS))]
    await reader.read(to_file(SQUARE), "image")
    pid = reader.pid
    both = [psutil.Process(), psutil.Process(pid)]
    before = [each.memory_info().rss for each in both]

    refused = await asyncio.gather(
        *(reader.read(bombs[number % 2], "image") for number in range(100)), return_exceptions=True
    )

    grown = [each.memory_info().rss - rss for each, rss in zip(both, before, strict=True)]
    assert {type(result) for result in refused} == {InvalidImageFileError}
    assert max(grown) < 100 * 1024**2
    assert reader.pid == pid


async def test_jpeg_of_many_scans_is_refused_at_once(reader: ImageReader) -> None:
    with pytest.raises(InvalidImageFileError, match="more than 100 scans"):
        await reader.read(endless_jpeg(), "image")
    progressive = to_file(SQUARE, "JPEG", progressive=True)

    assert (await reader.read(progressive, "image")).size == (64, 64)


async def test_scan_markers_behind_the_end_of_the_image_do_not_count(reader: ImageReader) -> None:
    """Phones append a video, in which any two bytes occur by chance."""
    film = random.Random(0).randbytes(9_000_000)

    assert film.count(b"\xff\xda") > 100
    assert (await reader.read(to_file(SQUARE, "JPEG") + film, "image")).size == (64, 64)


async def test_jpeg_of_endless_segments_is_refused_at_once(reader: ImageReader) -> None:
    with pytest.raises(InvalidImageFileError):
        await reader.read(b"\xff\xd8" + b"\xff\xfe\0\2" * 2_000_000, "image")


async def test_16_bit_grey_keeps_its_brightness(reader: ImageReader) -> None:
    ramp = Image.new("I;16", (8, 8))
    ramp.putdata([column * 32 * 256 for column in range(8)] * 8)

    image = await reader.read(to_file(ramp), "image")

    assert [image.getpixel((column, 0)) for column in range(8)] == [
        (column * 32,) * 3 for column in range(8)
    ]
