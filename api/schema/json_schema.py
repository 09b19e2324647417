"""Bounds the cost of JSON schemas before an engine compiles them to grammars.

Engines do not bound that cost: one pattern with nested quantifiers or a huge count keeps an engine
busy for minutes.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from api.schema.schema_cost import MAX_COST, find_costs, patterns_of

_MAX_BYTES = 64 * 1024
_MAX_BYTES_TOGETHER = 512 * 1024
_MAX_DEPTH = 32
_MAX_NODES = 1000
_MAX_ENUM_VALUES = 500
_MAX_PATTERN_CHARS_TOGETHER = 16 * 1024
"""Of one request: checking a pattern blocks the event loop for 3 µs per character."""
_MAX_COUNT = 1024
"""The largest `maxItems`, `minLength` etc."""
_MAX_LENGTH = 65_536
"""The largest `maxLength`: a long one costs no more than one of 180."""

_TYPES = frozenset(["string", "number", "integer", "boolean", "object", "array", "null"])
_COUNTS = (
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "minContains",
    "maxContains",
)
_SUBSCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


@dataclass(slots=True)
class Budget:
    """What is left for the schemas of one request."""

    bytes: int = _MAX_BYTES_TOGETHER
    pattern_chars: int = _MAX_PATTERN_CHARS_TOGETHER

    def spend(self, size_bytes: int, pattern_chars: int) -> None:
        """Subtract the size of one schema.

        Raises:
            ValueError: the budget is exceeded.
        """
        self.bytes -= size_bytes
        self.pattern_chars -= pattern_chars
        if self.bytes < 0:
            raise ValueError(
                f"the JSON schemas of this request are larger than {_MAX_BYTES_TOGETHER} bytes"
            )
        if self.pattern_chars < 0:
            raise ValueError(
                "the patterns in the JSON schemas of this request have more than "
                f"{_MAX_PATTERN_CHARS_TOGETHER} characters"
            )


def check_json_schema(schema: dict[str, Any], budget: Budget | None = None) -> dict[str, Any]:
    """Check that an engine can compile a schema quickly, and return the schema.

    Args:
        schema: as decoded from JSON.
        budget: shared by all schemas of one request.

    Raises:
        ValueError: the schema is invalid, too large or too deep, or would take too long to
            compile; the message is for the client.
    """
    _check_depth(schema)
    size_bytes = len(msgspec.json.encode(schema))
    if size_bytes > _MAX_BYTES:
        raise _too_large()
    _check_numbers(schema)
    nodes = list(_subschemas(schema))
    if len(nodes) > _MAX_NODES:
        raise ValueError(f"the JSON schema has more than {_MAX_NODES} parts")
    pattern_chars = sum(len(pattern) for pattern in patterns_of(nodes) if isinstance(pattern, str))
    (budget or Budget()).spend(size_bytes, pattern_chars)
    for node in nodes:
        _check_node(node)
    _check_references(nodes)
    _check_cost(nodes)
    return schema


def _check_numbers(schema: dict[str, Any]) -> None:
    """Refuse numbers such as 1e999, which are infinite once they are parsed."""
    try:
        json.dumps(schema, allow_nan=False)
    except ValueError:
        raise ValueError("the JSON schema has a number that is too large") from None


def _too_large() -> ValueError:
    return ValueError(f"the JSON schema is larger than {_MAX_BYTES} bytes")


def _check_depth(schema: dict[str, Any]) -> None:
    level: list[Any] = [schema]
    for _ in range(_MAX_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
        if len(level) > _MAX_BYTES:
            raise _too_large()
    raise ValueError(f"the JSON schema is nested more than {_MAX_DEPTH} levels deep")


def _children(node: Any) -> list[Any]:
    values = node.values() if isinstance(node, dict) else node
    return [value for value in values if isinstance(value, dict | list)]


def _subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield the schema and all its subschemas, but no values such as those of `enum`."""
    if not isinstance(schema, dict):
        return
    yield schema
    for key, value in schema.items():
        if key in ("enum", "const", "default", "examples"):
            continue
        if key in _SUBSCHEMA_MAPS:
            if not isinstance(value, dict):
                raise ValueError(f"in the JSON schema, '{key}' must be an object")
            members = list(value.values())
        else:
            members = value if isinstance(value, list) else [value]
        for member in members:
            yield from _subschemas(member)


def _check_node(node: dict[str, Any]) -> None:
    types = node.get("type", [])
    for name in types if isinstance(types, list) else [types]:
        if not isinstance(name, str) or name not in _TYPES:
            raise ValueError("the JSON schema has a 'type' that does not exist")
    enum = node.get("enum", [None])
    if not isinstance(enum, list) or not enum or len(enum) > _MAX_ENUM_VALUES:
        raise ValueError(f"in the JSON schema, 'enum' must hold 1 to {_MAX_ENUM_VALUES} values")
    for key in _COUNTS:
        count, most = node.get(key, 0), _MAX_LENGTH if key == "maxLength" else _MAX_COUNT
        if type(count) is not int or not 0 <= count <= most:
            raise ValueError(f"in the JSON schema, '{key}' must be from 0 to {most}")


def check_cost(schemas: list[dict[str, Any]]) -> None:
    """Bound the cost of schemas that the engine compiles together.

    Raises:
        ValueError: the total is over the limit; the message is for the client.
    """
    _check_cost([node for schema in schemas for node in _subschemas(schema)])


def find_cost_ms(schemas: list[dict[str, Any]]) -> float:
    """Estimate how long a slow core takes to compile schemas together; they must be valid."""
    nodes = [node for schema in schemas for node in _subschemas(schema)]
    return sum(find_costs(nodes).values())


def _check_cost(nodes: Sequence[dict[str, Any]]) -> None:
    costs = find_costs(nodes)
    if sum(costs.values()) > MAX_COST:
        reason = max(costs, key=costs.__getitem__)
        raise ValueError(
            f"compiling the JSON schema would cost {round(sum(costs.values())):,} units, more than "
            f"the limit of {MAX_COST:,}; most of it is for {reason}"
        )


def _check_references(nodes: Sequence[dict[str, Any]]) -> None:
    """Check that each `$ref` leads to a subschema, and that no chain of them is a circle."""
    checked = {id(node) for node in nodes}
    valid: set[str] = set()
    for node in nodes:
        followed: set[str] = set()
        while "$ref" in node:
            reference = node["$ref"]
            if not isinstance(reference, str) or not (reference + "/").startswith("#/"):
                raise ValueError("in the JSON schema, a '$ref' must begin with '#/'")
            if reference in valid:
                break
            if reference in followed:
                raise ValueError("in the JSON schema, a '$ref' leads back to itself")
            followed.add(reference)
            node = _follow(reference, nodes[0])
            if id(node) not in checked:
                raise ValueError("in the JSON schema, a '$ref' does not lead to a schema")
        valid |= followed


def _follow(reference: str, root: dict[str, Any]) -> Any:
    target: Any = root
    for part in reference.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, dict) or name not in target:
            raise ValueError("in the JSON schema, a '$ref' leads nowhere")
        target = target[name]
    return target
