"""What it costs an engine to compile a JSON schema to a grammar.

The unit is about a millisecond of a slow core, as measured with xgrammar 0.2.8 and a vocabulary of
49,152 tokens; the cost grows with the vocabulary. xgrammar tries each token in each state of the
grammar, so what is counted is the number of states, and whether most tokens go on from there.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from api.schema.pattern_cost import find_pattern_cost

MAX_COST = 5000
"""Some five seconds of a slow core, in threads of low priority."""

_LONG = 180
"""Longer strings cost xgrammar no more: it counts the rest."""
_PER_LENGTH = 10
_PER_OPEN_PROPERTY = 10
_PER_FORMAT = {"uri-template": 75, "email": 25, "uri": 20, "uri-reference": 20, "hostname": 8}
_PER_OTHER_FORMAT = 2
_NAME_CHARS = 4000
"""Optional properties × characters of their names, per unit."""
_COUNTED_PROPERTIES = 770
"""Square of the properties × `maxProperties`, per unit."""
_VALUE_CHARS = 140
_SQUARE_DIGITS = 5
"""Squares of the digits of a range, per unit."""
_MOST_DIGITS = 64
"""1e300 is compiled to 300 digits."""


def find_costs(nodes: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Estimate the cost of compiling schemas together: kind of keyword → cost.

    The same length or pattern in several places counts once, as it costs the engine once.

    Args:
        nodes: the schemas and all their subschemas, which are valid.

    Raises:
        ValueError: a pattern is not a regular expression, or one that is not supported.
    """
    return {
        "'minLength' and 'maxLength'": _cost_of_lengths(nodes),
        "patterns": _cost_of_patterns(nodes),
        "optional properties": sum(map(_cost_of_optional, nodes)),
        "'minProperties' and 'maxProperties'": sum(map(_cost_of_counts, nodes)),
        "properties besides additional ones": sum(map(_cost_of_open, nodes)),
        "values of 'enum' and 'const'": sum(map(_cost_of_values, nodes)),
        "ranges of numbers": sum(map(_cost_of_range, nodes)),
        "formats": sum(map(_cost_of_format, nodes)),
    }


def patterns_of(nodes: Sequence[dict[str, Any]]) -> Iterator[Any]:
    """Yield the values of `pattern`, whatever they are, and the keys of `patternProperties`."""
    for node in nodes:
        if "pattern" in node:
            yield node["pattern"]
        yield from node.get("patternProperties", {})


def _cost_of_lengths(nodes: Sequence[dict[str, Any]]) -> float:
    lengths = {(node.get("minLength", 0), node.get("maxLength", 0)) for node in nodes}
    longest: list[int] = [max(pair) for pair in lengths]
    return _PER_LENGTH * sum(min(length, _LONG) for length in longest)


def _cost_of_patterns(nodes: Sequence[dict[str, Any]]) -> float:
    costs = {pattern: find_pattern_cost(pattern) for pattern in patterns_of(nodes)}
    return sum(costs.values())


def _cost_of_optional(node: dict[str, Any]) -> float:
    """Each optional property may be followed by each later one."""
    required = node.get("required", [])
    needed = frozenset(map(str, required if isinstance(required, list) else []))
    optional = [name for name in node.get("properties", {}) if name not in needed]
    chars = sum(map(len, optional))
    return len(optional) * chars / _NAME_CHARS


def _cost_of_counts(node: dict[str, Any]) -> float:
    """A number of properties multiplies the states of which come next."""
    if "minProperties" not in node and "maxProperties" not in node:
        return 0
    properties = len(node.get("properties", {}))
    most: int = min(node.get("maxProperties", properties), properties)
    return most * properties**2 / _COUNTED_PROPERTIES


def _cost_of_open(node: dict[str, Any]) -> float:
    """The name of an additional property must differ from all of those that are listed."""
    others = ("additionalProperties", "unevaluatedProperties", "patternProperties")
    is_open = any(node.get(key, False) is not False for key in others)
    return _PER_OPEN_PROPERTY * len(node.get("properties", {})) if is_open else 0


def _cost_of_values(node: dict[str, Any]) -> float:
    return len(str([node.get("enum"), node.get("const")])) / _VALUE_CHARS


def _cost_of_range(node: dict[str, Any]) -> float:
    keys = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    digits = sum(_count_digits(node[key]) for key in keys if key in node)
    return digits**2 / _SQUARE_DIGITS


def _cost_of_format(node: dict[str, Any]) -> float:
    return _PER_FORMAT.get(str(node["format"]), _PER_OTHER_FORMAT) if "format" in node else 0


def _count_digits(number: Any) -> int:
    is_long = isinstance(number, int | float) and abs(number) >= 1e18
    return _MOST_DIGITS if is_long else len(str(number)[:_MOST_DIGITS])
