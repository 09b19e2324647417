import json

import pytest

from api.schema.strict_json import (
    MAX_CONTAINERS,
    MAX_ITEMS,
    MAX_MEMBERS,
    MAX_STRINGS,
    DuplicateKeyError,
    PartCounter,
    TooManyPartsError,
    read_json,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [("[1, null]", [1, None]), ('{"a": {"b": "é"}}'.encode(), {"a": {"b": "é"}}), ("2", 2)],
)
def test_json_is_decoded(text: str | bytes, value: object) -> None:
    assert read_json(text) == value


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "c": 2, "a": 3}}]'])
def test_repeated_member_raises(text: str) -> None:
    with pytest.raises(DuplicateKeyError):
        read_json(text)


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "[Infinity]", "[1] 2", b"\xff", "[" * 40_000, '"\\ud800"']
)
def test_anything_but_strict_json_raises(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the messages are the parser's
        read_json(text)


def list_of(item: str, count: int) -> str:
    return "[" + ",".join([item] * count) + "]"


def object_of(count: int) -> str:
    return "{" + ",".join(f'"{number}":1' for number in range(count)) + "}"


LARGEST = {
    "arrays": list_of("[]", MAX_CONTAINERS - 1),
    "objects": list_of("{}", MAX_CONTAINERS - 1),
    "strings": list_of('""', MAX_STRINGS),
    "members": object_of(MAX_MEMBERS),
    "items": list_of("1", MAX_ITEMS + 1),
}


@pytest.mark.parametrize("text", LARGEST.values(), ids=LARGEST)
def test_as_many_parts_as_are_allowed_are_parsed(text: str) -> None:
    read_json(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (list_of("[]", MAX_CONTAINERS), "50000 arrays and objects"),
        (list_of("{}", MAX_CONTAINERS), "50000 arrays and objects"),
        ("[" * 2_000_000, "50000 arrays and objects"),
        (list_of('""', MAX_STRINGS + 1), "150000 strings"),
        (object_of(MAX_MEMBERS + 1), "50000 members of objects"),
        (list_of("1", MAX_ITEMS + 2), "500000 items of arrays"),
        ('["' + '\\"' * 100_000 + '",' + list_of("[]", MAX_CONTAINERS) + "]", "50000 arrays"),
    ],
    ids=["arrays", "objects", "brackets", "strings", "members", "items", "after escapes"],
)
def test_more_parts_are_refused_and_not_built(text: str, parts: str) -> None:
    with pytest.raises(TooManyPartsError, match=f"more than {parts}"):
        read_json(text)


@pytest.mark.parametrize("text", ["[{", '"[{,:', "\\[{", '\\"[{,:', "\\\\", '\\"'])
def test_what_stands_in_a_string_is_not_counted(text: str) -> None:
    value = text * 200_000

    assert read_json(json.dumps(value)) == value


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_count_does_not_depend_on_the_slices(size: int) -> None:
    text = json.dumps([{'a"\\': "\\\\[,{:", "b": ["x\\", '"', 1]}] * 20).encode()
    whole, sliced = PartCounter(), PartCounter()
    whole.add(text)
    for begin in range(0, len(text), size):
        sliced.add(text[begin : begin + size])

    assert sliced.left == whole.left
    assert whole.left["arrays and objects"] == MAX_CONTAINERS - 41
    assert whole.left["strings"] == MAX_STRINGS - 20 * 5
