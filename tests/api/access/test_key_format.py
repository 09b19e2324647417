import hashlib
import hmac
import re
import string
import zlib

from hypothesis import given
from hypothesis import strategies as st

from api.access.key_format import digest, new_secret, to_hint

_, KEY = new_secret("Abcd1234")
_CHARS = string.ascii_letters + string.digits + "-_ é"
_BASE_62 = string.digits + string.ascii_letters


def has_valid_checksum(key: str) -> bool:
    """Decide as a scanner for leaked secrets does: CRC-32 of all but the last six characters."""
    body, checksum = key[:-6].encode(), key[-6:]
    if not set(checksum) <= set(_BASE_62):
        return False
    value = sum(_BASE_62.index(digit) * 62**place for place, digit in enumerate(checksum[::-1]))
    return value == zlib.crc32(body)


def test_generated_key_has_the_documented_format() -> None:
    key_id, key = new_secret()

    assert re.fullmatch(r"sk-triptych-[A-Za-z0-9]{8}-[A-Za-z0-9_-]{43}-[A-Za-z0-9]{6}", key)
    assert key[12:20] == key_id
    assert has_valid_checksum(key)


def test_generated_keys_are_unique() -> None:
    generated = [new_secret() for _ in range(100)]

    assert len({key_id for key_id, _ in generated}) == len({key for _, key in generated}) == 100


def test_new_secret_with_an_id_keeps_it() -> None:
    key_id, key = new_secret("Abcd1234")

    assert key_id == key[12:20] == "Abcd1234"
    assert key != KEY


@given(st.integers(0, len(KEY) - 1), st.sampled_from(_CHARS))
def test_checksum_detects_a_changed_character(position: int, character: str) -> None:
    changed = KEY[:position] + character + KEY[position + 1 :]

    assert has_valid_checksum(changed) == (changed == KEY)


@given(st.integers(0, len(KEY) - 2))
def test_checksum_detects_swapped_neighbours(position: int) -> None:
    swapped = KEY[:position] + KEY[position + 1] + KEY[position] + KEY[position + 2 :]

    assert has_valid_checksum(swapped) == (swapped == KEY)


@given(st.integers(0, len(KEY) - 1), st.sampled_from(_CHARS))
def test_checksum_detects_a_missing_or_added_character(position: int, character: str) -> None:
    assert not has_valid_checksum(KEY[:position] + KEY[position + 1 :])
    assert not has_valid_checksum(KEY[:position] + character + KEY[position:])


def test_digest_needs_the_pepper() -> None:
    expected = hmac.new(b"pepper", KEY.encode(), hashlib.sha256).digest()

    assert digest(b"pepper", KEY) == expected != digest(b"salt", KEY)


def test_hint_contains_no_secret() -> None:
    assert to_hint("Abcd1234") == "sk-triptych-Abcd1234-…"
