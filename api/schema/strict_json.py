"""Strict parsing of JSON from clients."""

import json
from typing import Any

import pydantic_core


class DuplicateKeyError(ValueError):
    """An object has two members with the same name."""


def read_json(text: str | bytes) -> Any:
    """Decode JSON in UTF-8, without NaN or infinity.

    Raises:
        DuplicateKeyError: an object repeats a member.
        ValueError: the text is anything else, or is nested too deeply.
    """
    value = pydantic_core.from_json(text, allow_inf_nan=False)
    # The parser above is stricter in all else, but keeps the last of two members. A proxy that
    # checks requests may keep the first, and so would check another request.
    json.loads(text, object_pairs_hook=_refuse_duplicates)
    return value


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise DuplicateKeyError
