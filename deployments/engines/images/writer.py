"""Pictures for clients are written to files; those from clients, once read, made ready."""

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from api.ports.images import ImageEncoding

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

_PROVENANCE_KEY = "triptych"


def flatten(picture: "PilImage") -> "PilImage":
    """Without transparency: what is clear becomes white."""
    from PIL import Image

    if picture.mode == "RGB":
        return picture
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture).convert("RGB")


def to_mask(picture: "PilImage") -> "PilImage":
    """White where to draw: OpenAI's masks are clear there, others' are white.

    Source: OpenAI openapi.yaml, `CreateImageEditRequest.mask`.
    """
    from PIL import ImageOps

    if picture.mode == "RGBA":
        return ImageOps.invert(picture.getchannel("A"))
    return picture.convert("L")


def write_picture(
    picture: "PilImage", file: ImageEncoding, provenance: Mapping[str, Any] | None = None
) -> bytes:
    """Encode; a PNG file says where it comes from."""
    from PIL.PngImagePlugin import PngInfo

    buffer = io.BytesIO()
    if file.format == "png":
        said = PngInfo()
        if provenance is not None:
            said.add_text(_PROVENANCE_KEY, json.dumps(provenance))
        picture.save(buffer, format="PNG", pnginfo=said)
    else:
        # At JPEG's 100 files grow and nothing is seen of it (Pillow's documentation of `quality`).
        kept = min(file.compression, 95) if file.format == "jpeg" else file.compression
        picture.save(buffer, format=file.format.upper(), quality=kept)
    return buffer.getvalue()
