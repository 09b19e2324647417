"""Image files as clients send them, harmless and not."""

import io

from PIL import Image

SQUARE = Image.new("RGB", (64, 64))
NOISE = Image.effect_noise((64, 64), 90).convert("RGB")


def to_file(image: Image.Image, format: str = "PNG", **more) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **more)
    return buffer.getvalue()


def endless_jpeg() -> bytes:
    """A small file of many scans, each of which costs a pass over the whole image."""
    data = to_file(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 4000 + data[-2:]
