import pytest

from api.schema.strict_json import DuplicateKeyError, read_json


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
    "text", ["", "{", "NaN", "[Infinity]", "[1] 2", b"\xff", "[" * 100_000, '"\\ud800"']
)
def test_anything_but_strict_json_raises(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the messages are the parser's
        read_json(text)
