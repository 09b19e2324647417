"""Recognises the image formats that clients may send by a file's first bytes."""


def is_known_image(data: bytes) -> bool:
    """Return whether a file has the signature of PNG, JPEG or WebP.

    Sources: PNG specification §5.2; ITU-T T.81 §B.1.1.3; WebP container specification.
    """
    is_webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return data.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) or is_webp
