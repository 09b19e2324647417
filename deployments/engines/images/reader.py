"""Decodes clients' images in a sandboxed process of its own.

A file that makes a codec crash, hang or exhaust memory kills only that process: the image is
refused, and the next one gets a new process. Images are decoded one at a time, first in, first out;
an image whose request is cancelled before its turn is not decoded.
"""

import contextlib
import fcntl
import logging
import os
import re
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from api.errors import EngineError, InvalidImageFileError, InvalidRequestError
from deployments.engines.cancellable_thread import CancellableThread, Cancellation
from deployments.engines.images import decoder_process
from deployments.engines.images.decoder_process import (
    MIN_SIDE_PX,
    READY,
    REQUEST,
    RESULT,
    RGB,
    RGBA,
    TOO_LARGE,
    TOO_SMALL,
    UNREADABLE,
    Result,
)

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

logger = logging.getLogger(__name__)

_BASE_BYTES = 256 * 1024**2
"""Address space for Python, Pillow, and the file itself twice."""

_BYTES_PER_PIXEL = 24
"""Pillow's four, and the codec's own: an animated WebP needs four canvases."""

_MAX_SCANS = 100
"""Per JPEG. Encoders write about ten; a decoder passes over the whole image for each."""

_MAX_SEGMENTS = 10_000

_JPEG, _START_OF_SCAN, _END = b"\xff\xd8", b"\xda", b"\xd9"
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
"""ITU-T T.81, table B.1, without the standalone markers that occur in the data of a scan."""

_CPU_S = 5
_TIMEOUT_S = 30.0
"""Wall-clock limit for starting and for each image, generous for a busy machine."""

_PIPE_BYTES = 1024**2  # Linux's default limit for unprivileged users

_KEPT_VARIABLES = ("LD_LIBRARY_PATH",)
"""The rest of the environment holds keys and tokens. Some Pythons need this one to start."""

_Process = subprocess.Popen[bytes]


class ImageReader:
    """Decodes images in one process, which starts with the first image."""

    def __init__(
        self,
        max_pixels: int,
        error: type[InvalidRequestError] = InvalidImageFileError,
        cpu_s: int = _CPU_S,
        max_scans: int = _MAX_SCANS,
        max_memory_bytes: int | None = None,
    ) -> None:
        """Start no process yet.

        Args:
            max_pixels: limit of width times height, per image.
            error: class raised for an image that cannot be decoded.
            cpu_s: CPU time limit per image, in seconds.
            max_scans: limit of scans per JPEG.
            max_memory_bytes: address space of the process; None is what `max_pixels` need.
        """
        self._max_pixels = max_pixels
        self._error = error
        self._cpu_s = cpu_s
        self._max_scans = max_scans
        self._max_memory_bytes = max_memory_bytes or _BASE_BYTES + _BYTES_PER_PIXEL * max_pixels
        self._thread = CancellableThread("images")
        self._process: _Process | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the current decoder; None before the first image."""
        return None if self._process is None else self._process.pid

    async def read(self, data: bytes, param: str) -> "PilImage":
        """Decode a file: its first frame, upright, as RGB or RGBA.

        Args:
            data: the file.
            param: name of the request's parameter, for error messages.

        Raises:
            InvalidRequestError: of the configured class: the file is not a PNG, JPEG or WebP, is
                damaged, too large or too small, or killed the process.
            EngineError: no process can be started.
        """
        return await self._thread.run(partial(self._read, data, param))

    def shut_down(self) -> None:
        """Kill the process and refuse further images."""
        self._thread.shut_down()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _read(self, data: bytes, param: str, cancellation: Cancellation) -> "PilImage":
        """Decode in the thread; cancellation does not interrupt an image under way."""
        from PIL import Image

        if data.startswith(_JPEG) and _count_scans(data) > self._max_scans:
            raise self._error.value(param, f"it has more than {self._max_scans} scans")
        result, width_px, height_px, pixels = self._decode(data)
        size = width_px, height_px
        if result in (RGB, RGBA):
            return Image.frombytes("RGBA" if result == RGBA else "RGB", size, pixels)
        # "by" rather than "x": "0x…" would look like a memory address.
        reasons = {
            TOO_LARGE: f"{width_px} by {height_px} is more than {self._max_pixels} pixels",
            TOO_SMALL: f"{width_px} by {height_px} pixels: each side must have {MIN_SIDE_PX}",
        }
        reason = reasons.get(result, "it is not a PNG, JPEG or WebP file that can be read")
        raise self._error.value(param, reason)

    def _decode(self, data: bytes) -> Result:
        process = self._ensure_process()
        timer = threading.Timer(_TIMEOUT_S, process.kill)
        timer.start()
        try:
            return self._exchange(process, data)
        except (OSError, EOFError):
            logger.warning("an image killed its decoder process: status %d", _kill(process))
            return UNREADABLE, 0, 0, b""
        finally:
            timer.cancel()

    def _exchange(self, process: _Process, data: bytes) -> Result:
        requests, results = process.stdin, process.stdout
        assert requests is not None, "it is a pipe"
        assert results is not None, "it is a pipe"
        requests.write(REQUEST.pack(self._max_pixels, len(data)))
        requests.write(data)
        requests.flush()
        head = results.read(RESULT.size)
        if len(head) < RESULT.size:
            raise EOFError
        result, width_px, height_px = RESULT.unpack(head)
        if result not in (RGB, RGBA):
            return result, width_px, height_px, b""
        size = width_px * height_px * (4 if result == RGBA else 3)
        if width_px * height_px > self._max_pixels:
            raise EOFError  # our program never answers so: an exploit may have taken it over
        pixels = results.read(size)
        if len(pixels) < size:
            raise EOFError
        return result, width_px, height_px, pixels

    def _ensure_process(self) -> _Process:
        """Return the running process, or start one.

        Raises:
            EngineError: the process does not start.
        """
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        return self._process

    def _start(self) -> _Process:
        program = str(Path(decoder_process.__file__))
        process = subprocess.Popen(
            # By path and isolated: it finds Pillow, and no module that PYTHONPATH may add.
            [sys.executable, "-I", program, str(self._max_memory_bytes), str(self._cpu_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
            cwd="/",
        )
        _enlarge_pipes(process)
        timer = threading.Timer(_TIMEOUT_S, process.kill)
        timer.start()
        try:
            assert process.stdout is not None, "it is a pipe"
            if process.stdout.read(len(READY)) == READY:
                return process
        finally:
            timer.cancel()
        logger.error("the image decoder process did not start: status %d", _kill(process))
        raise EngineError("The model cannot read images now.")


def _enlarge_pipes(process: _Process) -> None:
    """With the default 64 KiB, the two processes would switch a thousand times per image."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # a user's total of pipe memory is limited
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _count_scans(data: bytes) -> int:
    """Count the scans of a JPEG up to its end marker.

    Thumbnails in front of the scans and videos behind the end marker do not count.
    """
    scans, place = 0, len(_JPEG)
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, place)
        if found is None or found[1] == _END:
            return scans
        scans += found[1] == _START_OF_SCAN
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return _MAX_SEGMENTS


def _kill(process: _Process) -> int:
    """Kill a process if it still runs, close its pipes, and return its exit status."""
    process.kill()
    status = process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # buffered data that the process did not read
                pipe.close()
    return status
