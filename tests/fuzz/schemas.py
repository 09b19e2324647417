"""JSON for the schemas of requests: bodies that are right, nearly right, or wrong in one place."""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st
from pydantic import BaseModel

TEXTS = st.text(max_size=6) | st.sampled_from(["", "\0", "\ud7ff", "é" * 40, "../..", "a\r\nb: c"])
NUMBERS = (
    st.integers()
    | st.sampled_from([0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**30, -(10**30)])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([1e308, 5e-324, -0.0, 1e30])
)
_SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS


def anything(names: st.SearchStrategy[str] = TEXTS) -> st.SearchStrategy[Any]:
    """Any JSON; `names` are those of the members of its objects."""
    return st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
        max_leaves=12,
    )


def bodies_of(model: type[BaseModel], valid: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Bodies of a request: a valid one with up to five members by the schema, or wrong ones."""
    schema = model.model_json_schema()
    properties = schema["properties"]
    names = st.sampled_from(sorted({*properties, *schema.get("$defs", {}), *valid}))
    fitting = {
        name: st.integers(0, 5).flatmap(
            lambda chance, each=each: _fitting(each, schema, 4) if chance else anything(names)
        )
        for name, each in properties.items()
    }
    some = st.dictionaries(st.sampled_from(sorted(properties)), st.none(), max_size=5).flatmap(
        lambda chosen: st.fixed_dictionaries({name: fitting[name] for name in chosen})
    )
    changed = some.map(lambda members: {**valid, **members})
    unknown = st.dictionaries(names | TEXTS, anything(names), max_size=3).map(
        lambda members: {**valid, **members}
    )
    return st.one_of(changed, changed, changed, unknown, some)


def _fitting(schema: Any, root: Mapping[str, Any], depth: int) -> st.SearchStrategy[Any]:
    """Values of a JSON schema as pydantic writes them; deep ones end with null."""
    if depth == 0 or not isinstance(schema, dict):
        return st.none()
    if "$ref" in schema:
        return _fitting(root["$defs"][schema["$ref"].rpartition("/")[2]], root, depth)
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return st.one_of(*(_fitting(each, root, depth) for each in schema[several]))
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    make = _MAKERS.get(str(schema.get("type")))
    return make(schema, root, depth) if make else anything()


def _array(schema: Any, root: Any, depth: int) -> st.SearchStrategy[Any]:
    items = _fitting(schema.get("items", {}), root, depth - 1)
    return st.lists(items, min_size=min(schema.get("minItems", 0), 3), max_size=3)


def _object(schema: Any, root: Any, depth: int) -> st.SearchStrategy[Any]:
    properties = schema.get("properties")
    if properties is None:
        values = _fitting(schema.get("additionalProperties", {}), root, depth - 1)
        return st.dictionaries(TEXTS | st.integers(0, 99).map(str), values, max_size=3)
    members = {name: _fitting(each, root, depth - 1) for name, each in properties.items()}
    required = {name: members.pop(name) for name in schema.get("required", ())}
    return st.fixed_dictionaries(required, optional=members)


def _number(schema: Any, root: Any, depth: int) -> st.SearchStrategy[Any]:
    low, high = schema.get("minimum", -3), schema.get("maximum", 300)
    if schema["type"] == "integer":
        return st.integers(int(low), int(high)) | st.sampled_from([int(low), int(high), -1])
    return st.floats(float(low), float(high)) | st.integers(int(low), int(high))


_MAKERS = {
    "array": _array,
    "object": _object,
    "integer": _number,
    "number": _number,
    "boolean": lambda *_: st.booleans(),
    "null": lambda *_: st.none(),
    "string": lambda schema, *_: (
        TEXTS | st.text(min_size=min(schema.get("minLength", 0), 9), max_size=9)
    ),
}
