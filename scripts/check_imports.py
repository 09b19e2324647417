"""Checks which module may import which, in the packages `api` and `deployments`.

Imports inside functions and under TYPE_CHECKING count too, except that types alone make no cycle.
Each problem is one line: the file, the line of the import, and the rule.
"""

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("api", "deployments")

ORDER: Mapping[str, Sequence[str]] = {
    "api": (
        "app",
        "admin embeddings health images models text",
        "endpoint",
        "cold_start",
        "middleware services",
        "access http registry",
        "settings",
        "schema",
        "ports",
        "errors",
    ),
    "deployments": (
        "app cli haproxy",
        "check",
        "ingress models",
        "engines ledger",
        "serve_look",
        "autoscaling config discovery home observability transport",
    ),
    "deployments.engines": (
        "diffusion embedding",
        "llm",
        "images",
        "*",
    ),
    "deployments.ledger": (
        "*",
        "limits store",
        "audit_log pepper records",
    ),
    "deployments.ledger.store": (
        "migrations",
        "*",
    ),
}
"""The rooms of a folder, from top to bottom. A room may import those in lower lines: never one
above it, never one beside it in the same line. `*` is every file that no other line names."""

FROM_API: Mapping[str, str] = {
    "deployments.engines": "errors ports",
    "deployments.ledger.limits": "errors ports",
    "deployments.models": "errors ports",
    "deployments.transport": "errors ports",
    "deployments.autoscaling": "",
    "deployments.home": "",
    "deployments.observability": "",
}
"""The only rooms of `api` that these may import; every other room of `deployments` may import all.
`api` itself never imports `deployments`."""

LIBRARIES_OF_API = {"jiter", "msgspec", "numpy", "orjson", "pydantic", "pydantic_core", "starlette"}
"""With the standard library all that `api` may import: nothing heavy comes in by accident."""


@dataclass(frozen=True, slots=True)
class Import:
    """One module imports another, or something of it."""

    module: str
    imported: str
    place: str
    """The file and line: `api/app.py:12`."""
    is_for_types: bool
    """Under TYPE_CHECKING."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The modules of both packages, and all of their imports."""

    modules: frozenset[str]
    imports: tuple[Import, ...]


def main() -> int:
    problems = [*find_problems(ROOT), *find_stale_rooms(read_tree(ROOT))]
    print("\n".join(problems) or "Imports and packages are as they should be.")
    return 1 if problems else 0


def find_problems(root: Path) -> Iterator[str]:
    """Yield a line for each broken rule."""
    tree = read_tree(root)
    yield from _wrong_libraries(tree)
    yield from _wrong_order(tree)
    yield from _wrong_api_rooms(tree)
    yield from _cycles(tree)
    yield from _unknown_rooms(tree)
    yield from _unknown_packages(root)


def read_tree(root: Path) -> Tree:
    """Read every module of the packages in a checkout."""
    files = {
        _to_module(path.relative_to(root)): path
        for package in PACKAGES
        for path in sorted((root / package).rglob("*.py"))
    }
    imports = []
    for module, path in files.items():
        for node, is_for_types in _walk(ast.parse(path.read_text(), str(path)), False):
            place = f"{path.relative_to(root)}:{node.lineno}"
            for name in _to_names(node, files):
                imports.append(Import(module, name, place, is_for_types))
    return Tree(frozenset(files), tuple(imports))


def _to_module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _walk(node: ast.AST, is_for_types: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield every import, and whether it is under TYPE_CHECKING."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, is_for_types
    checks_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    body = set(node.body) if checks_types and isinstance(node, ast.If) else set()
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, is_for_types or child in body)


def _to_names(node: ast.Import | ast.ImportFrom, modules: Mapping[str, Path]) -> list[str]:
    """Name the imported modules: `from api.ports import text` imports `api.ports.text`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.module is None or node.level:
        return []  # relative: ruff forbids these
    full = [f"{node.module}.{alias.name}" for alias in node.names]
    return list(dict.fromkeys(name if name in modules else node.module for name in full))


def _wrong_libraries(tree: Tree) -> Iterator[str]:
    allowed = {"api", *LIBRARIES_OF_API, *sys.stdlib_module_names}
    for each in tree.imports:
        if _is_in(each.module, "api") and each.imported.split(".")[0] not in allowed:
            yield f"{each.place}: api must not import {each.imported}"


def _wrong_order(tree: Tree) -> Iterator[str]:
    for each in tree.imports:
        for folder in ORDER:
            importer, imported = _find_room(each.module, folder), _find_room(each.imported, folder)
            if importer is None or imported is None or importer[1] == imported[1]:
                continue
            if importer[0] >= imported[0]:
                where = "above" if importer[0] > imported[0] else "beside"
                yield (
                    f"{each.place}: {each.module} must not import {each.imported}: in {folder}, "
                    f"{imported[1]} is {where} {importer[1]}"
                )


def _find_room(module: str, folder: str) -> tuple[int, str] | None:
    """Return the line (0 is the top) and the name of a module's room in a folder, if it has one."""
    if not module.startswith(f"{folder}."):
        return None
    rest = module.removeprefix(f"{folder}.")
    fallback = None
    for number, line in enumerate(ORDER[folder]):
        for room in line.split():
            if _is_in(rest, room):
                return number, room
            if room == "*" and "." not in rest:
                fallback = (number, "the folder itself")
    return fallback


def _wrong_api_rooms(tree: Tree) -> Iterator[str]:
    for each in tree.imports:
        if not _is_in(each.imported, "api"):
            continue
        for room, names in FROM_API.items():
            allowed = [f"api.{name}" for name in names.split()]
            if _is_in(each.module, room) and not any(_is_in(each.imported, a) for a in allowed):
                yield (
                    f"{each.place}: {room} must not import {each.imported}: of api it may import "
                    f"{' and '.join(allowed) or 'nothing'} only"
                )


def _cycles(tree: Tree) -> Iterator[str]:
    """Yield one line for each group of modules that import each other."""
    graph: dict[str, dict[str, str]] = {module: {} for module in tree.modules}
    for each in tree.imports:
        if not each.is_for_types and each.imported in graph and each.imported != each.module:
            graph[each.module].setdefault(each.imported, each.place)
    reported: set[str] = set()
    for module in sorted(graph):
        path = [] if module in reported else _find_path(graph, module, module)
        if path:
            reported |= set(path)
            yield f"{graph[path[0]][path[1]]}: import cycle: {' -> '.join(path)}"


def _find_path(graph: Mapping[str, Mapping[str, str]], start: str, end: str) -> list[str]:
    """Find a shortest way along at least one import; empty if there is none."""
    paths, seen = [[start]], set[str]()
    for path in paths:  # it grows while we read it
        for target in graph[path[-1]]:
            if target == end:
                return [*path, end]
            if target not in seen:
                seen.add(target)
                paths.append([*path, target])
    return []


def _unknown_rooms(tree: Tree) -> Iterator[str]:
    """A new folder or file has no place in the order until it is given one."""
    for folder in ORDER:
        rooms = {
            module.removeprefix(f"{folder}.").split(".")[0]
            for module in tree.modules
            if module.startswith(f"{folder}.") and _find_room(module, folder) is None
        }
        for room in sorted(rooms):
            yield f"{folder}.{room}: has no place in ORDER of scripts/check_imports.py"


def find_stale_rooms(tree: Tree) -> Iterator[str]:
    """Yield rooms that the rules name, and that are not there."""
    named = [
        f"{folder}.{room}" for folder, lines in ORDER.items() for room in " ".join(lines).split()
    ]
    for room in [*named, *FROM_API]:
        if not room.endswith(".*") and not any(_is_in(module, room) for module in tree.modules):
            yield f"{room}: scripts/check_imports.py names it, but it does not exist"


def _unknown_packages(root: Path) -> Iterator[str]:
    """A third package of a generic name would be another chance of a clash."""
    modules = {path.parent.name for path in root.glob("*/__init__.py")}
    modules |= {path.stem for path in root.glob("*.py")}
    for name in sorted(modules - set(PACKAGES)):
        yield f"{name}: a third top-level package; the two are {' and '.join(PACKAGES)}"


def _is_in(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


if __name__ == "__main__":
    sys.exit(main())
