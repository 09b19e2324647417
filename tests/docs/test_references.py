"""Everything that the documents refer to exists: files, names in files, modules, links, anchors."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.markdown import DOCUMENTS, ROOT, find_anchors

_FILES = (
    *DOCUMENTS,
    *(ROOT / name for name in ("CHANGELOG.md", "SECURITY.md", "api/README.md")),
)
_FOLDERS = "api|deployments|scripts|tests|docs|examples|requirements"
_PATH = re.compile(
    rf"(?<![\w/.:-])(?:\./)?(?P<path>(?:{_FOLDERS})/[\w./-]*[\w-])(?::(?P<name>[A-Za-z_][\w.]*\w))?"
)
_MODULE = re.compile(
    r"(?<![\w/.])(?P<module>(?:api|deployments)(?:\.[a-z_]+)+)(?::(?P<name>\w+))?(?![\w/.-]*[/(])"
)
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")


@cache
def list_files() -> frozenset[str]:
    """List all files and folders that git knows, or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [Path(line) for line in listed.stdout.splitlines() if (ROOT / line).exists()]
    return frozenset(str(path) for file in files for path in (file, *file.parents))


@cache
def find_definitions(path: str) -> frozenset[str]:
    """List what a Python file defines: names at the top, and members of its classes."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(_names_in(tree.body, ""))


def _names_in(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        match node:
            case ast.ClassDef(name=name, body=members):
                yield prefix + name
                yield from _names_in(members, f"{prefix}{name}.")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield prefix + name
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name
            case _:
                pass


def is_defined(path: str, name: str | None) -> bool:
    if path not in list_files():
        return False
    return name is None or name in find_definitions(path)


def to_path(module: str) -> str:
    """Find the file or folder of a module's dotted name."""
    path = module.replace(".", "/")
    return path if path in list_files() else f"{path}.py"


def problems_of_links(document: Path) -> Iterator[str]:
    for match in _LINK.finditer(document.read_text()):
        target, _, anchor = match["target"].partition("#")
        if target.startswith(("https://", "http://")):
            continue
        file = (document.parent / target).resolve() if target else document
        if not file.exists():
            yield f"{match['target']}: there is no such file"
        elif anchor and anchor not in find_anchors(file):
            yield f"{match['target']}: there is no such heading"


@pytest.mark.parametrize("document", _FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_and_name_exists(document: Path) -> None:
    mentions = {(match["path"], match["name"]) for match in _PATH.finditer(document.read_text())}

    assert [mention for mention in mentions if not is_defined(*mention)] == []


@pytest.mark.parametrize("document", _FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_and_name_exists(document: Path) -> None:
    mentions = {
        (match["module"], match["name"]) for match in _MODULE.finditer(document.read_text())
    }

    assert [each for each in mentions if not is_defined(to_path(each[0]), each[1])] == []


@pytest.mark.parametrize("document", _FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    assert list(problems_of_links(document)) == []


@pytest.mark.parametrize(
    ("path", "name", "expected"),
    [
        ("api/app.py", "create_app", True),
        ("api/middleware/auth.py", "AuthMiddleware.__call__", True),
        ("api/app.py", "no_such_name", False),
        ("api/no_such_file.py", None, False),
    ],
)
def test_reference_is_looked_up_in_the_code(path: str, name: str | None, expected: bool) -> None:
    assert is_defined(path, name) is expected
