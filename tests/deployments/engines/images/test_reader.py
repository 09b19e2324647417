"""The real process, and what takes it down."""

import asyncio
import io
import os
import random
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PIL import Image

from api.errors import InvalidImageError, InvalidImageFileError
from deployments.engines.images import decoder_process as picture_decoder
from deployments.engines.images import reader as picture_reader
from deployments.engines.images.reader import PictureReader

MOST = 20_000_000
ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def reader() -> Iterator[PictureReader]:
    reader = PictureReader(MOST)
    yield reader
    reader.shut_down()


def to_spent_s(reader: PictureReader) -> float:
    """Processor time, here and in the process; by the clock, others may have the cores."""
    assert reader._process is not None
    there = psutil.Process(reader._process.pid).cpu_times()
    return time.process_time() + there.user + there.system


def to_file(picture: Image.Image, format: str = "PNG", **more) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=format, **more)
    return buffer.getvalue()


def to_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def to_png(
    width: int, height: int, data: bytes, *more: tuple[bytes, bytes], depth: int = 8
) -> bytes:
    """A PNG that says one size, whatever is in it."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0 if depth == 1 else 2, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(to_chunk(*chunk) for chunk in chunks)


def to_webp(width: int, height: int) -> bytes:
    """An animated WebP that says one size, and has a frame of another."""
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
SQUARE = Image.new("RGB", (64, 64))
NOISE = Image.effect_noise((64, 64), 90).convert("RGB")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
async def test_three_formats_are_read(reader: PictureReader, format: str) -> None:
    picture = await reader.read(to_file(Image.new("RGB", (16, 8), "red"), format), "image")

    red, green, blue = picture.getpixel((5, 5))
    assert (picture.size, picture.mode) == ((16, 8), "RGB")
    assert (red > 250, green < 5, blue < 5) == (True, True, True)


async def test_pixels_are_those_of_the_file(reader: PictureReader) -> None:
    clear = NOISE.copy()
    clear.putalpha(Image.effect_noise((64, 64), 90))

    pictures = [await reader.read(to_file(picture), "image") for picture in (NOISE, clear)]

    assert [picture.mode for picture in pictures] == ["RGB", "RGBA"]
    assert [picture.tobytes() for picture in pictures] == [NOISE.tobytes(), clear.tobytes()]


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16", "CMYK"])
async def test_other_modes_become_rgb(reader: PictureReader, mode: str) -> None:
    format = "JPEG" if mode == "CMYK" else "PNG"

    assert (await reader.read(to_file(Image.new(mode, (9, 9)), format), "image")).mode == "RGB"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
async def test_transparency_is_kept(reader: PictureReader, mode: str) -> None:
    assert (await reader.read(to_file(Image.new(mode, (9, 9))), "image")).mode == "RGBA"


@pytest.mark.parametrize("format", ["WEBP", "PNG"])
async def test_first_frame_of_many_is_taken(reader: PictureReader, format: str) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue", "lime")]
    more = {"lossless": True} if format == "WEBP" else {}
    data = to_file(frames[0], format, save_all=True, append_images=frames[1:], **more)

    picture = await reader.read(data, "image")

    assert picture.convert("RGB").getpixel((4, 4)) == (255, 0, 0)


async def test_picture_is_turned_upright(reader: PictureReader) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = to_file(Image.new("RGB", (16, 8)), "JPEG", exif=exif)

    assert (await reader.read(data, "image")).size == (8, 16)


async def test_largest_picture_is_read(reader: PictureReader) -> None:
    """So the limit of memory is not too low for what is allowed."""
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
async def test_what_cannot_be_read_is_refused_at_once(reader: PictureReader, data: bytes) -> None:
    await reader.read(to_file(SQUARE), "image")  # its process is there
    spent_s = to_spent_s(reader)

    with pytest.raises(InvalidImageFileError) as failure:
        await reader.read(data, "mask")

    assert to_spent_s(reader) - spent_s < 0.5
    assert failure.value.param == "mask"
    assert "0x" not in failure.value.message


@pytest.mark.parametrize(
    ("width", "height", "depth"),
    [(5000, 5000, 8), (50_000, 50_000, 1), (65_535, 65_535, 8), (2**31 - 1, 2**31 - 1, 8)],
)
async def test_bomb_is_refused_before_it_is_decoded(
    reader: PictureReader, width: int, height: int, depth: int
) -> None:
    await reader.read(to_file(SQUARE), "image")
    process = reader._process
    assert process is not None
    before = psutil.Process(process.pid).memory_info().rss
    spent_s = to_spent_s(reader)

    with pytest.raises(InvalidImageFileError, match=f"{width} by {height} is more than {MOST}"):
        await reader.read(to_png(width, height, ZEROS, depth=depth), "image")

    assert to_spent_s(reader) - spent_s < 0.5
    assert psutil.Process(process.pid).memory_info().rss - before < 20 * 1024**2


async def test_tiny_picture_is_refused(reader: PictureReader) -> None:
    with pytest.raises(InvalidImageFileError, match="7 by 64 pixels: each side"):
        await reader.read(to_file(Image.new("RGB", (7, 64))), "image")


async def test_error_is_the_one_asked_for() -> None:
    reader = PictureReader(100, InvalidImageError)

    with pytest.raises(InvalidImageError, match="64 by 64 is more than 100 pixels"):
        await reader.read(to_file(SQUARE), "messages")
    reader.shut_down()


async def test_hundred_bombs_leave_no_memory_behind(reader: PictureReader) -> None:
    """Nor in this process: nothing of a picture that is refused comes back."""
    bombs = [to_png(4000, 4900, ZEROS), to_png(64, 64, ZEROS, (b"zTXt", b"a\0\0" + ZEROS))]
    await reader.read(to_file(SQUARE), "image")
    process = reader._process
    assert process is not None
    both = [psutil.Process(), psutil.Process(process.pid)]
    before = [each.memory_info().rss for each in both]

    refused = await asyncio.gather(
        *(reader.read(bombs[number % 2], "image") for number in range(100)), return_exceptions=True
    )

    grown = [each.memory_info().rss - rss for each, rss in zip(both, before, strict=True)]
    assert {type(result) for result in refused} == {InvalidImageFileError}
    assert max(grown) < 100 * 1024**2
    assert reader._process is process


async def test_memory_is_limited_whatever_a_header_says() -> None:
    """A picture that gets past the check of its size finds no room to be decoded in."""
    reader = PictureReader(10_000)
    await reader.read(to_file(SQUARE), "image")
    process = reader._process
    reader._max_pixels = 100_000_000  # the process was started for fewer

    with pytest.raises(InvalidImageFileError, match="can be read"):
        await reader.read(to_file(Image.new("RGB", (9000, 9000))), "image")

    assert (await reader.read(to_file(SQUARE), "image")).size == (64, 64)
    assert reader._process is process
    reader.shut_down()


def endless_jpeg() -> bytes:
    """A small file of many scans; each takes the whole picture's time."""
    data = to_file(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 4000 + data[-2:]


async def test_jpeg_of_many_scans_is_refused_at_once(reader: PictureReader) -> None:
    with pytest.raises(InvalidImageFileError, match="more than 100 scans"):
        await reader.read(endless_jpeg(), "image")
    progressive = to_file(SQUARE, "JPEG", progressive=True)

    assert (await reader.read(progressive, "image")).size == (64, 64)


async def test_scans_are_those_before_the_end_of_the_picture(reader: PictureReader) -> None:
    """Phones put a film behind it, in which any two bytes are found by chance."""
    film = random.Random(0).randbytes(9_000_000)

    assert film.count(b"\xff\xda") > 100
    assert (await reader.read(to_file(SQUARE, "JPEG") + film, "image")).size == (64, 64)


async def test_jpeg_of_endless_segments_is_refused_at_once(reader: PictureReader) -> None:
    with pytest.raises(InvalidImageFileError):
        await reader.read(b"\xff\xd8" + b"\xff\xfe\0\2" * 2_000_000, "image")


async def test_grey_of_16_bits_stays_grey(reader: PictureReader) -> None:
    ramp = Image.new("I;16", (8, 8))
    ramp.putdata([column * 32 * 256 for column in range(8)] * 8)

    picture = await reader.read(to_file(ramp), "image")

    assert [picture.getpixel((column, 0)) for column in range(8)] == [
        (column * 32,) * 3 for column in range(8)
    ]


async def test_picture_that_takes_too_long_ends_its_process_and_no_other_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(picture_reader, "_MAX_SCANS", 10_000)
    reader = PictureReader(MOST, cpu_s=1)
    began_s = time.process_time()

    with pytest.raises(InvalidImageFileError):
        await reader.read(endless_jpeg(), "image")
    took_s = time.process_time() - began_s
    following = await reader.read(to_file(SQUARE), "image")

    assert took_s < 1  # none of it was spent here
    assert following.size == (64, 64)
    reader.shut_down()


async def test_process_that_is_killed_in_the_middle_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(picture_reader, "_MAX_SCANS", 10_000)
    reader = PictureReader(MOST)
    await reader.read(to_file(SQUARE), "image")
    first = reader._process
    assert first is not None
    reading = asyncio.create_task(reader.read(endless_jpeg(), "image"))
    await asyncio.sleep(0.2)

    first.kill()
    with pytest.raises(InvalidImageFileError):
        await reading
    following = await reader.read(to_file(SQUARE), "image")

    assert following.size == (64, 64)
    assert reader._process is not first
    reader.shut_down()


async def test_process_that_died_between_two_pictures_is_no_pictures_fault() -> None:
    reader = PictureReader(MOST)
    await reader.read(to_file(SQUARE), "image")
    process = reader._process
    assert process is not None
    process.kill()
    process.wait()

    assert (await reader.read(to_file(SQUARE), "image")).size == (64, 64)
    reader.shut_down()


async def test_who_leaves_wedges_nothing() -> None:
    reader = PictureReader(MOST)
    await reader.read(to_file(SQUARE), "image")
    process = reader._process
    large = to_file(Image.new("RGB", (4000, 4000)), "JPEG")
    reading = [asyncio.create_task(reader.read(large, "image")) for _ in range(50)]
    await asyncio.sleep(0.05)
    for task in reading:
        task.cancel()
    await asyncio.wait(reading)
    began_s = time.monotonic()

    picture = await reader.read(to_file(NOISE), "image")

    assert picture.tobytes() == NOISE.tobytes()
    assert reader._process is process
    assert time.monotonic() - began_s < 5  # one of the fifty was being read
    reader.shut_down()


async def test_process_has_no_secrets_no_sockets_and_none_of_ours(monkeypatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-secret")
    reader = PictureReader(MOST)
    await reader.read(to_file(SQUARE), "image")
    assert reader._process is not None
    process = psutil.Process(reader._process.pid)

    libraries = {Path(each.path).name.split(".")[0] for each in process.memory_maps()}
    assert set(process.environ()) <= {"LD_LIBRARY_PATH", "LC_CTYPE"}
    assert process.net_connections(kind="all") == []
    assert sorted(os.listdir(f"/proc/{process.pid}/fd")) == ["0", "1", "2"]
    assert [name for name in libraries if "torch" in name or "raylet" in name] == []
    assert process.memory_info().rss < 60 * 1024**2
    reader.shut_down()


def test_decoder_imports_nothing_of_ours() -> None:
    """It is started by its path, where none of our packages can be found."""
    source = Path(picture_decoder.__file__).read_text()

    assert [
        line for line in source.splitlines() if "import" in line and "deployments" in line
    ] == []


def test_process_ends_with_a_replica_that_is_killed(tmp_path: Path) -> None:
    """Even in the middle of a picture."""
    file = tmp_path / "picture.jpeg"
    file.write_bytes(endless_jpeg())
    code = f"""
import asyncio, pathlib
from deployments.engines.images.reader import PictureReader
async def main():
    reader = PictureReader({MOST}, cpu_s=1)
    try:
        await reader.read(b"", "image")
    except Exception:
        print(reader._process.pid, flush=True)
    await reader.read(pathlib.Path({str(file)!r}).read_bytes(), "image")
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.2)
    assert child.is_running()

    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    gone, _ = psutil.wait_procs([child], timeout=20)

    assert gone == [child]
