"""The text of an API key: `sk-triptych-<id>-<secret>-<checksum>`.

The checksum refuses typing errors and guesses without a look-up, and lets scanners for leaked
secrets be sure. Keys of the environment may have any other form.
"""

import hashlib
import hmac
import re
import secrets
import string
import zlib

PREFIX = "sk-triptych-"

_ID_CHARS = 8
_SECRET_BYTES = 32  # 43 characters of base64url
_CHECKSUM_CHARS = 6  # 62⁶ > 2³²: room for a CRC
_ALPHABET = string.digits + string.ascii_letters
_SHAPE = re.compile(PREFIX + r"([A-Za-z0-9]{8})-[A-Za-z0-9_-]{43}-[A-Za-z0-9]{6}")


def new_secret(key_id: str | None = None) -> tuple[str, str]:
    """Make an id, unless it is given, and a whole key that holds it."""
    key_id = key_id or "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))
    body = f"{PREFIX}{key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}-"
    return key_id, body + _checksum(body)


def find_id(key: str) -> str | None:
    """The id in a key of our form; None if it is of another, or was mistyped."""
    shape = _SHAPE.fullmatch(key)
    return shape[1] if shape and _has_checksum(key) else None


def is_mistyped(key: str) -> bool:
    """Whether it can be no key at all: of our form, with a checksum that is not its own."""
    return _SHAPE.fullmatch(key) is not None and not _has_checksum(key)


def digest(pepper: bytes, key: str) -> bytes:
    """What is kept of a key instead of it; a fast hash does, since nobody can guess 256 bits."""
    return hmac.digest(pepper, key.encode(), hashlib.sha256)


def to_hint(key_id: str) -> str:
    """What may be shown of a key."""
    return f"{PREFIX}{key_id}-…"


def _has_checksum(key: str) -> bool:
    return _checksum(key[:-_CHECKSUM_CHARS]) == key[-_CHECKSUM_CHARS:]


def _checksum(body: str) -> str:
    """The CRC-32 in base 62. It notices every run of wrong characters up to four long."""
    rest, characters = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM_CHARS):
        rest, digit = divmod(rest, len(_ALPHABET))
        characters = _ALPHABET[digit] + characters
    return characters
