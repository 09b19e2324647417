"""Images that engines generate, as arrays to compare."""

import base64
import io

import numpy as np
from PIL import Image

from api.ports.images import ImageRequest
from deployments.engines.diffusion.diffusers_engine import DiffusersEngine

SAME = 1.0
"""Mean difference of 8-bit values below which two images are the same but for rounding."""


async def generate(engine: DiffusersEngine, request: ImageRequest) -> np.ndarray:
    """The first image of a request, (H, W, 3) float64."""
    return to_pixels((await engine.generate(request)).images[0].data)


def to_pixels(data: bytes) -> np.ndarray:
    """A file's pixels, (H, W, 3) float64, 0 to 255."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


def decode_image(encoded: str) -> Image.Image:
    """The image of an API response, from its `b64_json`."""
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two images of one size."""
    return float(np.abs(one - other).mean())
