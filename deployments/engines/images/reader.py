"""Reads the pictures that clients send, in a process of its own, which they cannot get out of.

A codec that crashes, hangs or asks for all memory takes that process with it: the picture is
refused, and the next one gets a new process. Pictures are read one at a time, in the order of
asking; those whose request is cancelled before their turn are not read at all.
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
from deployments.engines.images import decoder_process as picture_decoder
from deployments.engines.images.decoder_process import (
    ASKED,
    MIN_SIDE_PX,
    READY,
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
"""Address space for Python, Pillow and the file itself, twice."""

_BYTES_PER_PIXEL = 24
"""Pillow's four, and the codec's own: an animated WebP takes four canvases."""

_MAX_SCANS = 100
"""Of one JPEG. Writers make about ten; each takes a decoder the time of the whole picture."""

_MAX_SEGMENTS = 10_000

_JPEG, _START_OF_SCAN, _END = b"\xff\xd8", b"\xda", b"\xd9"
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
"""ITU-T T.81, table B.1, without those that stand alone, among the data of a scan."""

_CPU_S = 5
_TIMEOUT_S = 30.0
"""By the clock, on a machine that has much else to do; also for starting."""

_PIPE_BYTES = 1024**2  # what Linux grants anybody

_KEPT_VARIABLES = ("LD_LIBRARY_PATH",)
"""Of the environment, with its keys and tokens: where some Pythons find what they need to start."""

_Process = subprocess.Popen[bytes]


class PictureReader:
    """One process, started when the first picture comes."""

    def __init__(
        self,
        max_pixels: int,
        error: type[InvalidRequestError] = InvalidImageFileError,
        cpu_s: int = _CPU_S,
    ) -> None:
        """Start nothing yet.

        Args:
            max_pixels: of one picture, width times height.
            error: what is raised for a picture that cannot be read.
            cpu_s: most processor time for one picture.
        """
        self._max_pixels = max_pixels
        self._error = error
        self._cpu_s = cpu_s
        self._worker = CancellableThread("pictures")
        self._process: _Process | None = None

    async def read(self, data: bytes, param: str) -> "PilImage":
        """Decode a file: its first frame, upright, as RGB or RGBA.

        Raises:
            InvalidRequestError: of the class asked for: it is not a PNG, JPEG or WebP, is damaged, too
                large or too small, or the process did not survive it.
            EngineError: no process can be started.
        """
        return await self._worker.run(partial(self._read, data, param))

    def shut_down(self) -> None:
        """End the process; read no more."""
        self._worker.shut_down()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _read(self, data: bytes, param: str, cancellation: Cancellation) -> "PilImage":
        """In the worker's thread. Who leaves while its picture is read is not waited for."""
        from PIL import Image

        if data.startswith(_JPEG) and _count_scans(data) > _MAX_SCANS:
            raise self._refusal(f"it has more than {_MAX_SCANS} scans.", param)
        result, width_px, height_px, pixels = self._ask(data)
        size = width_px, height_px
        if result in (RGB, RGBA):
            return Image.frombytes("RGBA" if result == RGBA else "RGB", size, pixels)
        # No "x" between the figures: with a 0 before it they look like an address in memory.
        reasons = {
            TOO_LARGE: f"{width_px} by {height_px} is more than {self._max_pixels} pixels.",
            TOO_SMALL: f"{width_px} by {height_px} pixels: each side must have {MIN_SIDE_PX}.",
        }
        reason = reasons.get(result, "it is not a PNG, JPEG or WebP file that can be read.")
        raise self._refusal(reason, param)

    def _refusal(self, reason: str, param: str) -> InvalidRequestError:
        return self._error(f"Invalid value for '{param}': {reason}", param=param)

    def _ask(self, data: bytes) -> Result:
        process = self._find_process()
        timer = threading.Timer(_TIMEOUT_S, process.kill)
        timer.start()
        try:
            return self._exchange(process, data)
        except (OSError, EOFError):
            logger.warning("reading a picture ended its process with status %d", _end(process))
            return UNREADABLE, 0, 0, b""
        finally:
            timer.cancel()

    def _exchange(self, process: _Process, data: bytes) -> Result:
        inbox, outbox = process.stdout, process.stdin
        assert inbox is not None, "it is a pipe"
        assert outbox is not None, "it is a pipe"
        outbox.write(ASKED.pack(self._max_pixels, len(data)))
        outbox.write(data)
        outbox.flush()
        head = inbox.read(RESULT.size)
        if len(head) < RESULT.size:
            raise EOFError
        result, width_px, height_px = RESULT.unpack(head)
        if result not in (RGB, RGBA):
            return result, width_px, height_px, b""
        size = width_px * height_px * (4 if result == RGBA else 3)
        if width_px * height_px > self._max_pixels:
            raise EOFError  # not our program's word any more
        pixels = inbox.read(size)
        if len(pixels) < size:
            raise EOFError
        return result, width_px, height_px, pixels

    def _find_process(self) -> _Process:
        """The one that is there, or a new one.

        Raises:
            EngineError: it does not start.
        """
        if self._process is None or self._process.poll() is not None:
            self._process = self._start()
        return self._process

    def _start(self) -> _Process:
        memory_bytes = _BASE_BYTES + _BYTES_PER_PIXEL * self._max_pixels
        program = str(Path(picture_decoder.__file__))
        process = subprocess.Popen(
            # By path and isolated: it finds Pillow, and nothing that a path or variable may name.
            [sys.executable, "-I", program, str(memory_bytes), str(self._cpu_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ},
            cwd="/",
        )
        _widen(process)
        timer = threading.Timer(_TIMEOUT_S, process.kill)
        timer.start()
        try:
            assert process.stdout is not None, "it is a pipe"
            if process.stdout.read(len(READY)) == READY:
                return process
        finally:
            timer.cancel()
        logger.error("the process that reads pictures ended with status %d", _end(process))
        raise EngineError("The model cannot read pictures now.")


def _widen(process: _Process) -> None:
    """Pixels are many: with the usual 64 KiB two processes wait for each other a thousand times."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # an unprivileged user may have too many
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _count_scans(data: bytes) -> int:
    """Those of a JPEG, up to its end: before it may be small pictures, and behind it films."""
    scans, place = 0, len(_JPEG)
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, place)
        if found is None or found[1] == _END:
            return scans
        scans += found[1] == _START_OF_SCAN
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return _MAX_SEGMENTS


def _end(process: _Process) -> int:
    """Kill it if it lives, and close its pipes; what it ended with."""
    process.kill()
    status = process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what could not be written to it
                pipe.close()
    return status
