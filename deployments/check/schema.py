"""Checks keys and values against a schema, and import paths."""

import importlib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError


def unknown_keys(value: Any, schema: type[BaseModel], path: str) -> Iterator[str]:
    """Yield keys that the schema does not have; Serve's own schemas accept them."""
    if isinstance(value, dict):
        for key in value:
            if key not in schema.model_fields:
                yield f"{path}{key}: there is no such key"


def schema_problems(value: Any, schema: type[BaseModel], path: str) -> Iterator[str]:
    """Yield a line for each validation error of a value."""
    try:
        schema.model_validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False, include_context=False):
            where = f"{path}{_to_path(detail['loc'])}".removesuffix(".")
            yield f"{where}: {_to_reason(detail['type'], detail['msg'])}"


def _to_path(location: tuple[int | str, ...]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location]
    return "".join(parts).removeprefix(".")


def _to_reason(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "there is no such key"
    if kind == "missing":
        return "is missing"
    reason = message.removeprefix("Value error, ").splitlines()[0]
    return reason[:1].lower() + reason[1:]


def import_problem(import_path: str) -> str | None:
    """Say why an import path cannot be resolved; None if it can."""
    if ":" not in import_path:
        return "must be 'module:attribute'"
    module_name, _, attribute = import_path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # importing runs the module, which may do anything
        return f"module '{module_name}' cannot be imported ({type(error).__name__})"
    if not hasattr(module, attribute):
        return f"module '{module_name}' has no '{attribute}'"
    return None
