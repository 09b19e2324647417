"""Pictures as files: those that clients send are read with care, those for them are written."""

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from api.backends import PictureFile
from api.errors import InvalidImageFile

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

_FORMATS = ("PNG", "JPEG", "WEBP")
_MIN_SIDE_PX = 8
_PROVENANCE_KEY = "triptych"


def read_picture(data: bytes, param: str, max_pixels: int) -> "PilImage":
    """Decode a file: its first frame, upright, as RGB or RGBA.

    Raises:
        InvalidImageFile: it is not a PNG, JPEG or WebP, is damaged, too large or too small.
    """
    from PIL import Image, ImageOps

    try:
        # The header only: nothing is decoded before the size is known.
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            _check_size(picture.size, param, max_pixels)
            picture.verify()  # which leaves it unusable
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            picture.load()
            is_clear = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
            upright = ImageOps.exif_transpose(picture)
            return upright.convert("RGBA" if is_clear else "RGB")
    except InvalidImageFile:
        raise
    except Exception as error:  # Pillow's readers raise whatever they stumble over
        raise InvalidImageFile(
            f"Invalid value for '{param}': it is not a PNG, JPEG or WebP file that can be read.",
            param=param,
        ) from error


def _check_size(size: tuple[int, int], param: str, max_pixels: int) -> None:
    width_px, height_px = size
    if width_px * height_px > max_pixels:
        raise InvalidImageFile(
            f"Invalid value for '{param}': {width_px}x{height_px} is larger than the limit of "
            f"{max_pixels} pixels.",
            param=param,
        )
    if min(size) < _MIN_SIDE_PX:
        raise InvalidImageFile(
            f"Invalid value for '{param}': {width_px}x{height_px} is smaller than "
            f"{_MIN_SIDE_PX} pixels.",
            param=param,
        )


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
    picture: "PilImage", file: PictureFile, provenance: Mapping[str, Any] | None = None
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
