"""A program that decodes the pictures clients send, one after the other, and may die of them.

`PictureReader` starts it. It imports Pillow and nothing else, so it is there in a fraction of a
second; its memory and its time for each picture are limited; it has no environment, no files but
its three pipes, and may open no more than a codec's module. It ends with the pipe it reads from,
and so with the replica, whatever ends that.

    replica → program    <QQ>  most pixels, bytes of the file; then the file
    program → replica    <B>   READY, once, when all limits are set
                         <BII> result, width, height; then, of RGB and RGBA, the pixels
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

ASKED = struct.Struct("<QQ")
READY = b"+"
RESULT = struct.Struct("<BII")
RGB, RGBA, UNREADABLE, TOO_LARGE, TOO_SMALL = range(5)
MIN_SIDE_PX = 8

_FORMATS = ("PNG", "JPEG", "WEBP")
_MAX_FILES = 16

Result = tuple[int, int, int, bytes]
"""What has become of it, width, height, pixels."""


def decode(data: bytes, max_pixels: int) -> Result:
    """A file's first frame, upright, as RGB or RGBA."""
    from PIL import Image

    try:
        # The header only: nothing is decoded before the size is known.
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            width_px, height_px = picture.size
            if width_px * height_px > max_pixels:
                return TOO_LARGE, width_px, height_px, b""
            if min(width_px, height_px) < MIN_SIDE_PX:
                return TOO_SMALL, width_px, height_px, b""
            picture.verify()  # which leaves it unusable
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            return _to_result(picture)
    except Exception:  # Pillow's readers raise whatever they stumble over, MemoryError too
        return UNREADABLE, 0, 0, b""


def _to_result(picture: "PilImage") -> Result:
    from PIL import ImageOps

    picture.load()
    if picture.mode.startswith("I"):  # 16 bits of grey, which `convert` would cut off at white
        picture.info.pop("transparency", None)
        picture = picture.point(lambda value: value * (1 / 256)).convert("L")
    is_clear = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
    ImageOps.exif_transpose(picture, in_place=True)
    mode = "RGBA" if is_clear else "RGB"
    # `picture` holds its first frame until its caller lets go: here it is not copied for nothing.
    pixels = picture if picture.mode == mode else picture.convert(mode)
    return (RGBA if is_clear else RGB), *pixels.size, pixels.tobytes()


def _prepare(max_memory_bytes: int) -> None:
    """Load what is needed; then, what no picture needs, none may have."""
    from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin, WebPImagePlugin  # noqa: F401 - codecs

    Image.MAX_IMAGE_PIXELS = None  # `decode` says itself how large a picture may be
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the replica, and that this program
    with contextlib.suppress(OSError):  # where memory is short, this goes before the replica
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, b"1000")
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_FILES, _MAX_FILES))
    for forbidden in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(forbidden, (0, 0))


def _allow(cpu_s: int) -> None:
    """Processor time for one picture; the kernel ends who takes more."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + cpu_s, hard))


def serve(inbox: BinaryIO, outbox: BinaryIO, cpu_s: int) -> None:
    """Answer until there is nobody to answer to."""
    outbox.write(READY)
    outbox.flush()
    while len(head := inbox.read(ASKED.size)) == ASKED.size:
        max_pixels, size = ASKED.unpack(head)
        data = inbox.read(size)
        if len(data) < size:
            return
        _allow(cpu_s)
        result, width_px, height_px, pixels = decode(data, max_pixels)
        outbox.write(RESULT.pack(result, width_px, height_px))
        outbox.write(pixels)
        outbox.flush()


if __name__ == "__main__":
    _prepare(int(sys.argv[1]))
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer, int(sys.argv[2]))
    os._exit(0)  # nothing is left to flush, and nobody reads it
