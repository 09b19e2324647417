"""Pictures in messages: only `data:` URLs, of three formats, within limits, before any decoding.

A URL that the service would have to fetch is refused: whoever may name one could make the service
talk to machines that only it can reach.
"""

import base64
import binascii
import re

from api.errors import InvalidImage
from api.limits import Limits

_DATA_URL = re.compile(r"data:image/(?:png|jpeg|jpg|webp);base64,", re.IGNORECASE)


def read_image(url: str, param: str, limits: Limits) -> bytes:
    """The bytes of the file that a `data:` URL holds.

    Raises:
        InvalidImage: it is no such URL, too large, or not the beginning of a PNG, JPEG or WebP.
    """
    head = _DATA_URL.match(url)
    if head is None:
        raise InvalidImage(
            "An image must be given as a 'data:image/png;base64,…' URL; PNG, JPEG and WebP are "
            "supported.",
            param=param,
        )
    if (len(url) - head.end()) * 3 // 4 > limits.max_input_image_bytes:
        raise InvalidImage(
            f"An image is larger than the limit of {limits.max_input_image_bytes} bytes.",
            param=param,
        )
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImage("An image is not valid base64.", param=param) from None
    if not _is_known(data):
        raise InvalidImage("An image is not a PNG, JPEG or WebP file.", param=param)
    return data


def _is_known(data: bytes) -> bool:
    """Sources: PNG specification §5.2; ITU-T T.81 §B.1.1.3; WebP container specification."""
    is_webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or is_webp
