from typing import Any

import pytest

from api.schema.pattern_cost import find_pattern_cost


@pytest.mark.parametrize(
    "pattern",
    ["", "^a+$", r"\d{4}-\d{2}", "(a|b)*", "[^,]*,[^,]*", "(ab){3}", "(?:x{1,2})?", "(?>ab)c"],
)
def test_cheap_pattern_is_accepted(pattern: str) -> None:
    find_pattern_cost(pattern)


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
        find_pattern_cost(pattern)


@pytest.mark.parametrize(
    ("pattern", "cost"),
    [
        ("^abc$", 3),
        ("[a-z]{100}", 100),
        (r"\d{4}-\d{2}", 7),
        (".{100}", 500),
        (r"[^a]{3}\w\W", 25),
        (".{0,100}", 1000),
        (".*", 10),
        (".{3,}", 30),
        ("(?:ab|cd)?", 8),
        ("(a?b){0,9}", 18 * 11),
        ("(?>ab)c", 3),
    ],
)
def test_cost_grows_with_the_states_and_with_where_repeats_may_end(
    pattern: str, cost: float
) -> None:
    assert find_pattern_cost(pattern) == cost
