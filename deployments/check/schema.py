"""Checks keys and values against a schema, and import paths."""

import importlib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from deployments.config.reasons import to_lines


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
        yield from to_lines(error, path)


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
