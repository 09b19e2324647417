"""What it costs an engine to compile a regular expression: see `schema_cost`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from re import _constants as regex  # type: ignore[attr-defined]
from re import _parser as regex_parser  # type: ignore[attr-defined]
from typing import Any

_MAX_CHARS = 512
_MAX_COUNT = 1024
"""The largest number in `{n,m}`."""
_WIDE = 5
"""Cost of a part that most characters match, such as `.`: most tokens go on from there."""
_MAX_NARROW = 32
"""Most characters of a class that is not wide."""

_LOOKAROUNDS = (regex.ASSERT, regex.ASSERT_NOT, regex.GROUPREF, regex.GROUPREF_EXISTS)
_REPEATS = (regex.MAX_REPEAT, regex.MIN_REPEAT, regex.POSSESSIVE_REPEAT)


@dataclass(frozen=True, slots=True)
class _Size:
    """How large the automaton of a part of a pattern is."""

    states: int = 0
    """Characters and classes, repeats unrolled, wide ones by their weight."""
    choices: int = 0
    """Places at which a repeat may end: at each, the states before and after are alive at once."""

    def __add__(self, other: "_Size") -> "_Size":
        return _Size(self.states + other.states, self.choices + other.choices)

    def times(self, count: int) -> "_Size":
        return _Size(self.states * count, self.choices * count)


def find_pattern_cost(pattern: Any) -> float:
    """Estimate the cost of a pattern without nested repeats, look-around and references.

    Raises:
        ValueError: the pattern is not a regular expression, or not such a one.
    """
    if not isinstance(pattern, str) or len(pattern) > _MAX_CHARS:
        raise ValueError(
            f"in the JSON schema, a pattern must be a string of at most {_MAX_CHARS} characters"
        )
    return _find_cost(pattern)


@lru_cache(maxsize=256)
def _find_cost(pattern: str) -> float:
    try:
        parsed = regex_parser.parse(pattern)
    except (re.error, OverflowError, RecursionError):
        raise ValueError("in the JSON schema, a pattern is not a regular expression") from None
    size = _measure(parsed, is_repeated=False)
    return size.states * (1 + size.choices)


def _measure(part: Any, is_repeated: bool) -> _Size:
    size = _Size()
    for operation, argument in part:
        if operation in _LOOKAROUNDS:
            raise ValueError("in the JSON schema, a pattern looks around or back")
        if operation in _REPEATS:
            size += _measure_repeat(*argument, is_repeated=is_repeated)
            continue
        inner = list(_parts_of(operation, argument))
        own = _Size() if inner else _Size(_weigh(operation, argument))
        size += sum((_measure(each, is_repeated) for each in inner), own)
    return size


def _measure_repeat(least: Any, most: Any, part: Any, *, is_repeated: bool) -> _Size:
    is_open = most is regex.MAXREPEAT
    if most > 1 and (is_repeated or max(least, 0 if is_open else most) > _MAX_COUNT):
        raise ValueError("in the JSON schema, a pattern repeats too much")
    count = max(least, 1) if is_open else most
    choices = 0 if least == most else 1
    return _measure(part, is_repeated or most > 1).times(count) + _Size(choices=choices)


def _parts_of(operation: Any, argument: Any) -> Iterator[Any]:
    """Yield the parts of a parsed pattern, in the structure of CPython's `re._parser`."""
    if operation is regex.BRANCH:
        yield from argument[1]
    elif operation is regex.ATOMIC_GROUP:
        yield argument
    elif operation is regex.SUBPATTERN:
        yield argument[-1]


def _weigh(operation: Any, argument: Any) -> int:
    """Weigh a character or class; a place such as `^` weighs nothing."""
    if operation is regex.AT:
        return 0
    if operation is regex.IN:
        return 1 if _count_characters(argument) <= _MAX_NARROW else _WIDE
    return 1 if operation is regex.LITERAL else _WIDE


def _count_characters(members: Any) -> int:
    r"""Count the characters of a class; `\d` has ten, other categories and negations very many."""
    return sum(map(_count_member, members))


def _count_member(member: Any) -> int:
    operation, argument = member
    if operation is regex.LITERAL:
        return 1
    if operation is regex.RANGE:
        return int(argument[1] - argument[0] + 1)
    is_digit = operation is regex.CATEGORY and argument is regex.CATEGORY_DIGIT
    return 10 if is_digit else _MAX_NARROW + 1
