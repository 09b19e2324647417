from collections.abc import Iterable
from typing import Any

import pytest

from api.schema.json_schema import Budget, check_json_schema, check_pattern


def nested(depth: int, key: str = "items") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", key: schema}
    return schema


def str_or_number(value: Any) -> str | None:
    return value if isinstance(value, str) else None


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object", "properties": {"type": {"type": "string"}}, "required": ["type"]},
        {"type": ["string", "null"]},
        {"enum": ["a", 1, None, {"type": "whatever"}]},
        {"const": {"$ref": "http://nowhere"}},
        {"properties": {"pattern": {"type": "string", "pattern": "^[a-z]{1,9}-(x|y)+$"}}},
        {"$defs": {"n": {"properties": {"next": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"},
        {"properties": {"next": {"$ref": "#"}}},
        {"$defs": {"a/b": {}}, "$ref": "#/$defs/a~1b"},
        {"type": "string", "maxLength": 1024},
        {"anyOf": [{"type": "string", "maxLength": 1024}] * 400},
        {"anyOf": [{"maxLength": 100 * n} for n in (1, 2, 5)]},
        {"anyOf": [{"pattern": "[a-z]{1024}"}] * 100},
        {"pattern": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
        {
            "anyOf": [{"$ref": f"#/$defs/{n}"} for n in range(9)],
            "$defs": {str(n): {} for n in range(9)},
        },
        nested(30),
    ],
    ids=lambda schema: repr(schema)[:60],
)
def test_cheap_schema_is_accepted(schema: dict[str, Any]) -> None:
    assert check_json_schema(schema) == schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "nonsense"}, "'type'"),
        ({"type": [1]}, "'type'"),
        ({"enum": []}, "'enum'"),
        ({"enum": list(range(501))}, "'enum'"),
        ({"enum": "a"}, "'enum'"),
        ({"properties": []}, "'properties'"),
        ({"properties": {"a": {"type": "x"}}}, "'type'"),
        ({"maxLength": 100_000}, "'maxLength'"),
        ({"minItems": -1}, "'minItems'"),
        ({"maxItems": True}, "'maxItems'"),
        ({"$ref": "http://169.254.169.254/"}, r"'\$ref'"),
        ({"$ref": "#/$defs/missing"}, "leads nowhere"),
        ({"$ref": "#"}, "leads back"),
        ({"$ref": 1}, r"'\$ref'"),
        ({"$ref": {}}, r"'\$ref'"),
        ({"$ref": ["#"]}, r"'\$ref'"),
        ({"pattern": []}, "pattern"),
        ({"$ref": "#/const", "const": {"pattern": "(a+)+"}}, "does not lead to a schema"),
        (
            {"$ref": "#/default/a", "default": {"a": {"minItems": 10**9}}},
            "does not lead to a schema",
        ),
        ({"properties": {"a": {"$ref": "#/properties"}}}, "does not lead to a schema"),
        (
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/enum"}}, "enum": [1]},
            "not lead to a schema",
        ),
        ({"type": {}}, "'type'"),
        ({"type": [[]]}, "'type'"),
        ({"minimum": float("inf")}, "too large"),
        ({"enum": [float("inf")]}, "too large"),
        ({"enum": [[]] * 100_000}, "larger"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "leads back"),
        ({"anyOf": [{"pattern": "(a+)+"}]}, "repeats too much"),
        ({"patternProperties": {"(a*)*": {}}}, "repeats too much"),
        (nested(40), "levels deep"),
        (nested(10_000), "levels deep"),
        ({"properties": {str(n): {} for n in range(1001)}}, "parts"),
        ({"description": "x" * 70_000}, "larger"),
        ({"anyOf": [{"maxLength": 1000 + n} for n in range(4)]}, "too many different"),
        ({"anyOf": [{"minLength": n, "maxLength": n} for n in range(40)]}, "too many different"),
        ({"anyOf": [{"pattern": "[a-z]{600}"}, {"pattern": "[0-9]{600}"}]}, "repeats of all"),
        ({"pattern": "(abcdef){200}"}, "repeats of all"),
        ({"pattern": "[a-z]{1024}" * 2}, "repeats of all"),
    ],
    ids=str_or_number,
)
def test_expensive_or_invalid_schema_is_refused(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_json_schema(schema)


@pytest.mark.parametrize(
    "pattern",
    ["", "^a+$", r"\d{4}-\d{2}", "(a|b)*", "[^,]*,[^,]*", "(ab){3}", "(?:x{1,2})?", "(?>ab)c"],
)
def test_cheap_pattern_is_accepted(pattern: str) -> None:
    check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        1,
        "(",
        "^(a+)+$",
        "(a*)*",
        "((a|b)+c)*",
        "(|.*)*$",
        "(a{1,9}){1,9}",
        r"\d{1,100000}",
        "a(?=b)",
        "(?<!a)b",
        r"(a)\1",
        "a" * 513,
        "(" * 400 + ")" * 400,
    ],
    ids=lambda value: repr(value)[:30],
)
def test_expensive_or_invalid_pattern_is_refused(pattern: Any) -> None:
    with pytest.raises(ValueError, match="pattern"):
        check_pattern(pattern)


def chain(length: int) -> dict[str, Any]:
    """Build a schema of references, each to the next one."""
    links = {str(number): {"$ref": f"#/$defs/{number + 1}"} for number in range(length)}
    return {"$defs": {**links, str(length): {}}}


class Definitions(dict[str, Any]):
    """Counts look-ups by name."""

    lookups = 0

    def __getitem__(self, name: str) -> Any:
        self.lookups += 1
        return super().__getitem__(name)


def test_each_reference_of_a_chain_is_followed_once() -> None:
    definitions = Definitions(chain(900)["$defs"])

    check_json_schema({"$defs": definitions})

    assert definitions.lookups == 900


def check_many(schemas: Iterable[dict[str, Any]]) -> None:
    budget = Budget()
    for schema in schemas:
        check_json_schema(schema, budget)


def test_schemas_of_one_request_share_their_budget_of_bytes() -> None:
    with pytest.raises(ValueError, match="of this request are larger than 524288 bytes"):
        check_many([{"description": "x" * 60_000}] * 9)


def test_patterns_of_one_request_share_their_budget_of_characters() -> None:
    schema = {"patternProperties": {f"{n}{'a' * 500}": 1 for n in range(4)}}

    with pytest.raises(ValueError, match="of this request have more than 16384 characters"):
        check_many([schema] * 9)
