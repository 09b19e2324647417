import pytest
import yaml

from deployments.check.yaml_file import read_yaml


def test_content_is_read_without_duplicates() -> None:
    assert read_yaml(b"a: {b: [1, two]}") == ({"a": {"b": [1, "two"]}}, [])


def test_empty_file_is_none() -> None:
    assert read_yaml(b"# nothing\n") == (None, [])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a: 1\nb: 2\na: 3\n", "a: is set 2 times in one mapping, last in line 3"),
        (b"x:\n- a: 1\n  a: 2\n", "a: is set 2 times in one mapping, last in line 3"),
    ],
)
def test_key_that_stands_twice_in_one_mapping_is_one_line(content: bytes, line: str) -> None:
    assert read_yaml(content)[1] == [line]


def test_same_key_in_two_mappings_is_no_duplicate() -> None:
    assert read_yaml(b"x: {a: 1}\ny: {a: 2}\n")[1] == []


def test_key_that_overrides_a_merged_one_is_no_duplicate() -> None:
    content, duplicates = read_yaml(b"x: &x {a: 1}\ny: {<<: *x, a: 2}\n")

    assert (content["y"], duplicates) == ({"a": 2}, [])


def test_alias_of_itself_is_read_once() -> None:
    assert read_yaml(b"x: &x [*x]\n")[1] == []


@pytest.mark.parametrize(
    "content", [b"a: [1", b"a:\n\t- b", b"a: \xff", b"a: !!python/object:os.system {}"]
)
def test_content_that_is_no_yaml_is_an_error(content: bytes) -> None:
    with pytest.raises(yaml.YAMLError):
        read_yaml(content)
