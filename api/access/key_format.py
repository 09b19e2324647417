"""The format of generated API keys: `sk-triptych-<id>-<secret>-<checksum>`.

The prefix and the checksum let scanners for leaked secrets recognise a key reliably.
The service itself compares digests only, so keys from the environment may have any format.
"""

import hashlib
import hmac
import secrets
import string
import zlib

PREFIX = "sk-triptych-"

_ID_CHARS = 8
_SECRET_BYTES = 32  # 43 characters of base64url
_CHECKSUM_CHARS = 6  # 62⁶ > 2³²: room for a CRC
_ALPHABET = string.digits + string.ascii_letters


def new_secret(key_id: str | None = None) -> tuple[str, str]:
    """Generate a key.

    Args:
        key_id: the id in the key; None generates one.

    Returns:
        The id and the whole key.
    """
    key_id = key_id or "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))
    body = f"{PREFIX}{key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}-"
    return key_id, body + _checksum(body)


def digest(pepper: bytes, key: str) -> bytes:
    """Hash a key for storage; 256 random bits cannot be guessed, so a fast hash is enough."""
    return hmac.digest(pepper, key.encode(), hashlib.sha256)


def to_hint(key_id: str) -> str:
    """Build the part of a key that may be shown."""
    return f"{PREFIX}{key_id}-…"


def _checksum(body: str) -> str:
    """Compute the CRC-32 in base 62."""
    rest, characters = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM_CHARS):
        rest, digit = divmod(rest, len(_ALPHABET))
        characters = _ALPHABET[digit] + characters
    return characters
