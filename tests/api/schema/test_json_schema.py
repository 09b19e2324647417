from collections.abc import Iterable
from typing import Any

import pytest

from api.schema.json_schema import Budget, check_json_schema


def nested(depth: int, key: str = "items") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", key: schema}
    return schema


def names(count: int) -> dict[str, Any]:
    return {str(number): {"type": "integer"} for number in range(count)}


def closed(properties: dict[str, Any]) -> dict[str, Any]:
    """An object with all of these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


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
        {"anyOf": [{"type": "string", "maxLength": 10_000}, {"minLength": 1, "maxLength": 50}]},
        {"anyOf": [{"pattern": "[a-z]{600}"}, {"pattern": "[0-9]{600}"}]},
        {"pattern": "[a-z]{0,10}-" * 10},
        {"pattern": ".{0,256}"},
        {"pattern": r"^[a-z0-9._%+-]+@[a-z0-9.-]+\.[a-z]{2,}$"},
        {"properties": names(100)},
        closed(names(900)),
        {"properties": names(20), "minProperties": 1, "maxProperties": 20},
        {"properties": names(50), "additionalProperties": True},
        closed({n: {"minimum": 0, "maximum": 100} for n in names(300)}),
        closed({n: {"minimum": -90.5, "exclusiveMaximum": 1e18} for n in names(3)}),
        closed({n: {"format": "date-time"} for n in names(300)}),
        closed({n: {"format": "email"} for n in names(50)}),
        {"required": 3, "properties": {"minimum": {"minimum": "x"}}},
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
        ({"anyOf": [{"maxLength": 1000 + n} for n in range(4)]}, "'maxLength'$"),
        ({"anyOf": [{"minLength": n, "maxLength": n} for n in range(40)]}, "'maxLength'$"),
        ({"propertyNames": {"maxLength": 100_000}}, "'maxLength' must be from 0 to 65536"),
        ({"minLength": 1025}, "'minLength' must be from 0 to 1024"),
        *[
            ({"pattern": pattern}, "for patterns$")
            for pattern in (
                *(".{0,1024}", ".{1024}", ".?" * 60, "[a-z]?" * 80, ".{0,5}" * 20),
                r"^[^a]*a[^b]*b" + "[^c]{0,50}" * 4,
                r"\w{0,300}\w{0,300}",
                "[a-z]{1024}" * 5,
                "(abcdef){1000}",
            )
        ],
        ({"anyOf": [{"pattern": f".{{0,{n}}}"} for n in range(40)]}, "for patterns$"),
        ({"properties": {f"{n:030}": {} for n in range(900)}}, "for optional properties$"),
        ({"properties": names(300), "minProperties": 5}, "'maxProperties'$"),
        ({"properties": names(600), "maxProperties": 11}, "'maxProperties'$"),
        (closed(names(600)) | {"additionalProperties": True}, "besides additional ones$"),
        (closed(names(600)) | {"unevaluatedProperties": {}}, "besides additional ones$"),
        (closed(names(600)) | {"patternProperties": {"^x": {}}}, "besides additional ones$"),
        (closed({n: {"minimum": int(n) - 10**17} for n in names(900)}), "ranges of numbers$"),
        (closed({n: {"exclusiveMaximum": 1e300} for n in names(10)}), "ranges of numbers$"),
        (closed({n: {"format": "uri-template"} for n in names(300)}), "for formats$"),
    ],
    ids=str_or_number,
)
def test_expensive_or_invalid_schema_is_refused(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_json_schema(schema)


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
