"""Each guard of SECURITY.md names tests that exist."""

import ast
import re
from functools import cache

import pytest

from tests.helpers.markdown import ROOT, find_anchors

SECURITY = ROOT / "SECURITY.md"
_TEST = re.compile(r"`(?P<path>tests/[\w/]+\.py)::(?P<name>\w+)`")
_SECTIONS = {
    "report-a-fault",
    "what-is-protected-from-whom",
    "ports",
    "before-others-may-reach-it",
    "data",
    "defaults",
    "guards",
}


def read_guards() -> list[tuple[str, str]]:
    """Return the rows of the table of guards: what it is, and its tests."""
    table = SECURITY.read_text().split("## Guards")[1]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    return [(row[0], row[1]) for row in rows[1:]]


@cache
def list_tests(path: str) -> frozenset[str]:
    """List the functions of a test module, which is read and not run."""
    file = ROOT / path
    nodes = ast.parse(file.read_text()).body if file.exists() else []
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in nodes if isinstance(node, kinds))


@pytest.mark.parametrize(("guard", "tests"), read_guards(), ids=[each[0] for each in read_guards()])
def test_guard_names_tests_that_exist(guard: str, tests: str) -> None:
    named = [(match["path"], match["name"]) for match in _TEST.finditer(tests)]

    assert named != []
    assert len(named) == tests.count("::")
    assert [each for each in named if each[1] not in list_tests(each[0])] == []


def test_there_are_guards() -> None:
    assert len(read_guards()) > 30


def test_every_section_is_there() -> None:
    assert find_anchors(SECURITY) >= _SECTIONS


def test_readme_leads_to_it() -> None:
    assert "](SECURITY.md)" in (ROOT / "README.md").read_text()
