"""Markdown table of an argument block: every key of a pydantic model, nested models included."""

import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_NAMES: Mapping[Any, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "true or false",
    Any: "anything",
    types.NoneType: "null",
}
_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}


def to_table(model: type[BaseModel]) -> Iterator[str]:
    """Make one row for each key: its dotted path, type, default and description.

    `live` marks what `user_config` changes in running replicas.
    """
    live_keys = getattr(model, "live_keys", frozenset())
    yield "| key | type | default | live | description |"
    yield "|---|---|---|---|---|"
    for path, field in walk_fields(model):
        live = "✓" if re.split(r"[.[]", path)[0] in live_keys else ""
        cells = [f"`{path}`", _to_type(field), _to_default(field), live, field.description or ""]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def walk_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every field with its dotted path; `[]` is an item of a list, `*` a key of a mapping."""
    for name, field in model.model_fields.items():
        path = prefix + name
        yield path, field
        nested = _find_model(field.annotation)
        if nested is not None:
            yield from walk_fields(nested[1], f"{path}{nested[0]}.")


def _find_model(annotation: Any) -> tuple[str, type[BaseModel]] | None:
    """Find the model inside an annotation, and how the path of its keys goes on."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "", annotation
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    suffix = {tuple: "[]", list: "[]", dict: ".*"}.get(origin, "")
    for argument in arguments:
        if (nested := _find_model(argument)) is not None:
            return suffix + nested[0], nested[1]
    return None


def _to_type(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {_to_number(getattr(item, bound))}"
        for item in field.metadata
        for bound, sign in _BOUNDS.items()
        if getattr(item, bound, None) is not None
    ]
    return " ".join([_to_name(field.annotation), ", ".join(bounds)]).strip()


def _to_name(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    if annotation in _NAMES:
        return _NAMES[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{_to_yaml(value)}`" for value in arguments)
    if origin is typing.Annotated:
        return _to_name(arguments[0])
    if origin is dict:
        return f"mapping of {_to_name(arguments[1])}"
    if origin in (tuple, list, frozenset):
        return f"list of {_to_name(arguments[0])}"
    # A union; null is a default, and is shown as one.
    return " or ".join(_to_name(each) for each in arguments if each is not types.NoneType)


def _to_default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined or isinstance(default, BaseModel):
        return ""  # of a nested model each key has its own
    return f"`{_to_yaml(default)}`"


def _to_yaml(value: Any) -> str:
    if isinstance(value, frozenset | tuple | list):
        return json.dumps(list(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _to_number(value)
    return value if isinstance(value, str) else json.dumps(value)


def _to_number(value: float) -> str:
    """Write whole numbers without a point, long ones with underscores, which YAML allows."""
    if value != int(value):
        return str(value)
    return f"{int(value):_}" if value >= 10_000 else str(int(value))
