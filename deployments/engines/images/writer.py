"""Converts decoded input images and masks, and encodes images as files."""

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from api.ports.images import ImageEncoding

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

_PROVENANCE_KEY = "triptych"


def flatten(image: "PilImage") -> "PilImage":
    """Return an RGB image, with transparent pixels blended onto white."""
    from PIL import Image

    if image.mode == "RGB":
        return image
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image).convert("RGB")


def to_mask(image: "PilImage") -> "PilImage":
    """Convert a client's mask to mode L, white where the image is to be edited.

    OpenAI's masks are transparent there; other clients' masks have no alpha, and are white there.
    Source: OpenAI openapi.yaml, `CreateImageEditRequest.mask`.
    """
    from PIL import ImageOps

    if image.mode == "RGBA":
        return ImageOps.invert(image.getchannel("A"))
    return image.convert("L")


def write_image(
    image: "PilImage", file: ImageEncoding, provenance: Mapping[str, Any] | None = None
) -> bytes:
    """Encode an image as a file.

    Args:
        image: RGB.
        file: format and compression.
        provenance: how the image was made, stored as JSON in a text chunk of a PNG file.
    """
    from PIL.PngImagePlugin import PngInfo

    buffer = io.BytesIO()
    if file.format == "png":
        info = PngInfo()
        if provenance is not None:
            info.add_text(_PROVENANCE_KEY, json.dumps(provenance))
        image.save(buffer, format="PNG", pnginfo=info)
    else:
        # Above 95, a JPEG grows with hardly any gain (Pillow's documentation of `quality`).
        quality = min(file.compression, 95) if file.format == "jpeg" else file.compression
        image.save(buffer, format=file.format.upper(), quality=quality)
    return buffer.getvalue()
