"""JSON that a client sent, read as strictly as a proxy in front might read it."""

import json
from typing import Any

import pydantic_core


class DuplicateKeyError(ValueError):
    """An object has two members of one name."""


def read_json(text: str | bytes) -> Any:
    """Decode JSON in UTF-8, without NaN or infinity.

    Raises:
        DuplicateKeyError: an object has a member twice.
        ValueError: it is anything else, or is nested too deeply.
    """
    value = pydantic_core.from_json(text, allow_inf_nan=False)
    # The parser above refuses more, and keeps the last of two members; a proxy that checks
    # requests may keep the first, and let pass what it should not.
    json.loads(text, object_pairs_hook=_refuse_twins)
    return value


def _refuse_twins(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise DuplicateKeyError
