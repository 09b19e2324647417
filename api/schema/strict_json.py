"""Strict parsing of JSON from clients, after its parts have been counted.

A parser keeps the event loop until it has built everything, in a thread too: it holds the
interpreter's lock. A character of a text costs it a nanosecond or two; an array, object, member or
item costs up to half a microsecond, and a body has room for millions. So they are counted before
any is built.
"""

from collections.abc import Iterator
from typing import Any

import jiter

MAX_CONTAINERS = 50_000
MAX_MEMBERS = 50_000
MAX_STRINGS = 150_000
MAX_ITEMS = 500_000
"""More than the 300,000 token ids of an embedding request; with all four, parsing takes 30 ms."""

_SLICE_BYTES = 64 * 1024
_STRUCTURE = b'",:[{'
_OTHERS = bytes(set(range(256)) - set(_STRUCTURE))


class DuplicateKeyError(ValueError):
    """An object has two members with the same name."""


class TooManyPartsError(ValueError):
    """The JSON has more parts than are parsed; the message names them and the limit."""


def read_json(text: str | bytes) -> Any:
    """Decode JSON in UTF-8, without NaN or infinity.

    Raises:
        TooManyPartsError: as `PartCounter.add`.
        DuplicateKeyError, ValueError: as `decode`.
    """
    data = text.encode() if isinstance(text, str) else text
    counter = PartCounter()
    for part in to_slices(data):
        counter.add(part)
    return decode(data)


def decode(data: bytes) -> Any:
    """Decode JSON whose parts were counted.

    Raises:
        DuplicateKeyError: an object repeats a member. A proxy that checks requests may keep the
            other one, and so would check another request.
        ValueError: the text is anything else, or is nested too deeply.
    """
    try:
        return jiter.from_json(
            data,
            allow_inf_nan=False,
            catch_duplicate_keys=True,
            cache_mode="keys",  # a cache of all strings makes many different ones slower
        )
    except ValueError as error:
        if str(error).startswith("Detected duplicate key"):
            raise DuplicateKeyError from None
        raise


def to_slices(data: bytes) -> Iterator[bytes]:
    """Split data into slices that are counted in less than a millisecond each."""
    for begin in range(0, len(data), _SLICE_BYTES):
        yield data[begin : begin + _SLICE_BYTES]


class PartCounter:
    """Counts the parts of JSON as it arrives, without what stands in strings.

    The counts are exact up to the first error, at which the parser stops. There is no Python code
    per character or part.
    """

    def __init__(self) -> None:
        """Begin outside of a string."""
        self.left = {
            "strings": MAX_STRINGS,
            "arrays and objects": MAX_CONTAINERS,
            "members of objects": MAX_MEMBERS,
            "items of arrays": MAX_ITEMS,
        }
        """How many more of each part there may be."""
        self._is_in_string = False
        self._unread = b""
        """A backslash at the end, which escapes the next byte."""

    def add(self, data: bytes) -> None:
        """Count the next bytes.

        Raises:
            TooManyPartsError: there are more parts than are parsed.
        """
        data = self._unread + data
        self._unread = b""
        if b"\\" in data:
            data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
            if data.endswith(b"\\"):
                self._unread = b"\\"
        pieces = data.translate(None, _OTHERS).split(b'"')
        plain = b"".join(pieces[self._is_in_string :: 2])
        self._take("strings", (len(pieces) - self._is_in_string) // 2)
        self._is_in_string ^= len(pieces) % 2 == 0
        self._take("arrays and objects", plain.count(b"[") + plain.count(b"{"))
        self._take("members of objects", plain.count(b":"))
        self._take("items of arrays", plain.count(b","))

    def _take(self, parts: str, count: int) -> None:
        self.left[parts] -= count
        if self.left[parts] < 0:
            raise TooManyPartsError(f"it has more than {_LIMITS[parts]} {parts}")


_LIMITS = PartCounter().left
