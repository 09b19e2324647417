"""The decoder process: its limits, and what happens when it dies."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from PIL import Image

from api.errors import InvalidImageFileError
from deployments.engines.images import decoder_process
from deployments.engines.images.reader import ImageReader
from tests.helpers.image_files import NOISE, SQUARE, endless_jpeg, to_file
from tests.helpers.service import wait_until

MAX_PIXELS = 20_000_000
ROOT = Path(__file__).resolve().parents[4]


def start_of_decoding(decoder: psutil.Process) -> Callable[[], bool]:
    """Return a check of whether the process has begun to work on an image since this call."""

    def spent_s() -> float:
        times = decoder.cpu_times()
        return times.user + times.system

    before_s = spent_s()
    return lambda: spent_s() - before_s > 0.03


async def test_decoder_memory_is_limited_whatever_the_header_says() -> None:
    """An image that passes the size check but needs more memory is refused, and kills nothing."""
    reader = ImageReader(100_000_000, max_memory_bytes=256 * 1024**2)
    await reader.read(to_file(SQUARE), "image")
    pid = reader.pid

    with pytest.raises(InvalidImageFileError, match="can be read"):
        await reader.read(to_file(Image.new("RGB", (9000, 9000))), "image")

    assert (await reader.read(to_file(SQUARE), "image")).size == (64, 64)
    assert reader.pid == pid
    reader.shut_down()


async def test_image_over_the_cpu_limit_fails_alone() -> None:
    reader = ImageReader(MAX_PIXELS, cpu_s=1, max_scans=10_000)
    began_s = time.process_time()

    with pytest.raises(InvalidImageFileError):
        await reader.read(endless_jpeg(), "image")
    took_s = time.process_time() - began_s
    following = await reader.read(to_file(SQUARE), "image")

    assert took_s < 1  # the CPU time was spent in the decoder, not here
    assert following.size == (64, 64)
    reader.shut_down()


async def test_decoder_killed_while_decoding_is_replaced() -> None:
    reader = ImageReader(MAX_PIXELS, max_scans=10_000)
    await reader.read(to_file(SQUARE), "image")
    first = psutil.Process(reader.pid)
    is_decoding = start_of_decoding(first)
    reading = asyncio.create_task(reader.read(endless_jpeg(), "image"))
    await asyncio.to_thread(wait_until, is_decoding, 20)

    first.kill()
    with pytest.raises(InvalidImageFileError):
        await reading
    following = await reader.read(to_file(SQUARE), "image")

    assert following.size == (64, 64)
    assert reader.pid != first.pid
    reader.shut_down()


async def test_decoder_that_died_while_idle_fails_no_image() -> None:
    reader = ImageReader(MAX_PIXELS)
    await reader.read(to_file(SQUARE), "image")
    decoder = psutil.Process(reader.pid)
    decoder.kill()
    decoder.wait()

    assert (await reader.read(to_file(SQUARE), "image")).size == (64, 64)
    reader.shut_down()


async def test_cancelled_reads_do_not_block_the_next() -> None:
    reader = ImageReader(MAX_PIXELS)
    await reader.read(to_file(SQUARE), "image")
    pid = reader.pid
    large = to_file(Image.new("RGB", (4000, 4000)), "JPEG")
    is_decoding = start_of_decoding(psutil.Process(pid))
    reading = [asyncio.create_task(reader.read(large, "image")) for _ in range(50)]
    await asyncio.to_thread(wait_until, is_decoding, 20)
    for task in reading:
        task.cancel()
    await asyncio.wait(reading)
    began_s = time.monotonic()

    image = await reader.read(to_file(NOISE), "image")

    assert image.tobytes() == NOISE.tobytes()
    assert reader.pid == pid
    assert time.monotonic() - began_s < 5  # at most one of the fifty was still being decoded
    reader.shut_down()


async def test_decoder_has_no_secrets_no_sockets_and_no_heavy_library(monkeypatch) -> None:
    monkeypatch.setenv("TRIPTYCH_API_KEYS", "sk-secret")
    reader = ImageReader(MAX_PIXELS)
    await reader.read(to_file(SQUARE), "image")
    process = psutil.Process(reader.pid)

    libraries = {Path(each.path).name.split(".")[0] for each in process.memory_maps()}
    assert set(process.environ()) <= {"LD_LIBRARY_PATH", "LC_CTYPE"}
    assert process.net_connections(kind="all") == []
    assert sorted(os.listdir(f"/proc/{process.pid}/fd")) == ["0", "1", "2"]
    assert [name for name in libraries if "torch" in name or "raylet" in name] == []
    assert process.memory_info().rss < 60 * 1024**2
    reader.shut_down()


def test_decoder_imports_none_of_our_packages() -> None:
    """It is started by path, where our packages cannot be found."""
    source = Path(decoder_process.__file__).read_text()

    assert [
        line for line in source.splitlines() if "import" in line and "deployments" in line
    ] == []


def test_decoder_exits_when_its_replica_is_killed_while_decoding(tmp_path: Path) -> None:
    file = tmp_path / "image.jpeg"
    file.write_bytes(endless_jpeg())
    code = f"""
import asyncio, pathlib
from deployments.engines.images.reader import ImageReader
async def main():
    reader = ImageReader({MAX_PIXELS}, cpu_s=1, max_scans=10_000)
    try:
        await reader.read(b"", "image")
    except Exception:
        print(reader.pid, flush=True)
    await reader.read(pathlib.Path({str(file)!r}).read_bytes(), "image")
asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    wait_until(start_of_decoding(child), 20)

    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    gone, _ = psutil.wait_procs([child], timeout=20)

    assert gone == [child]
