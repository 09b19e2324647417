"""The program that decodes clients' images one at a time, and that a malicious file may kill.

`ImageReader` starts it. It imports only Pillow, so it starts in a fraction of a second. Its memory
and its CPU time per image are limited; its environment is empty; it has no open files except its
three pipes, and may open only a codec's module. It exits when its input pipe closes, and so with
the replica, however that ends.

    replica → program    <QQ>  maximum pixels, size of the file in bytes; then the file
    program → replica    <B>   READY, once, when all limits are set
                         <BII> result, width, height; then the pixels, for RGB and RGBA
"""

import contextlib
import io
import os
import resource
import signal
import struct
import sys
import time
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

REQUEST = struct.Struct("<QQ")
READY = b"+"
RESULT = struct.Struct("<BII")
RGB, RGBA, UNREADABLE, TOO_LARGE, TOO_SMALL = range(5)
MIN_SIDE_PX = 8

_FORMATS = ("PNG", "JPEG", "WEBP")
_MAX_FILES = 16

Result = tuple[int, int, int, bytes]
"""Result code, width in pixels, height in pixels, pixel bytes."""


def decode(data: bytes, max_pixels: int) -> Result:
    """Decode a file's first frame, upright, as RGB or RGBA."""
    from PIL import Image

    try:
        # Opening reads the header only: nothing is decoded before the size is known.
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width_px, height_px = image.size
            if width_px * height_px > max_pixels:
                return TOO_LARGE, width_px, height_px, b""
            if min(width_px, height_px) < MIN_SIDE_PX:
                return TOO_SMALL, width_px, height_px, b""
            image.verify()  # an image cannot be used after `verify`
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return _to_result(image)
    except Exception:  # Pillow's readers raise many types, MemoryError included
        return UNREADABLE, 0, 0, b""


def _to_result(image: "PilImage") -> Result:
    from PIL import ImageOps

    image.load()
    if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip at white
        image.info.pop("transparency", None)
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    is_transparent = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    ImageOps.exif_transpose(image, in_place=True)
    mode = "RGBA" if is_transparent else "RGB"
    # The caller keeps `image` alive, so an unneeded `convert` would hold its pixels twice.
    pixels = image if image.mode == mode else image.convert(mode)
    return (RGBA if is_transparent else RGB), *pixels.size, pixels.tobytes()


def _prepare(max_memory_bytes: int) -> None:
    """Import the codecs, then take away every resource that decoding does not need."""
    from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401 - codecs

    Image.MAX_IMAGE_PIXELS = None  # `decode` checks the size itself
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the replica, and that this program
    with contextlib.suppress(OSError):  # under memory pressure, kill this process first
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, b"1000")
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_FILES, _MAX_FILES))
    for forbidden in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(forbidden, (0, 0))


def _limit_cpu_time(cpu_s: int) -> None:
    """Allow `cpu_s` more seconds of CPU time; the kernel kills a process that exceeds its limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + cpu_s, hard))


def serve(requests: BinaryIO, results: BinaryIO, cpu_s: int) -> None:
    """Decode files until `requests` is closed."""
    results.write(READY)
    results.flush()
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        max_pixels, size = REQUEST.unpack(head)
        data = requests.read(size)
        if len(data) < size:
            return
        _limit_cpu_time(cpu_s)
        result, width_px, height_px, pixels = decode(data, max_pixels)
        results.write(RESULT.pack(result, width_px, height_px))
        results.write(pixels)
        results.flush()


if __name__ == "__main__":
    _prepare(int(sys.argv[1]))
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer, int(sys.argv[2]))
    os._exit(0)  # skip Python's exit, which would flush to a pipe that may be closed
