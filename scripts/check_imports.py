"""Checks the one arrow between the packages: `deployments` may import `api`, never the reverse.

`api` imports only what is listed here, so nothing heavy can come in by accident, inside functions
or out. A third top-level package is refused: another generic name is another chance of a clash.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"api", "deployments"}
API_MAY_IMPORT = {"api", "msgspec", "numpy", "orjson", "pydantic", "pydantic_core", "starlette"}
API_MAY_IMPORT |= sys.stdlib_module_names


def main() -> int:
    problems = [*wrong_imports(), *unknown_packages()]
    print("\n".join(problems) or "Imports and packages are as they should be.")
    return 1 if problems else 0


def wrong_imports() -> Iterator[str]:
    for path in sorted((ROOT / "api").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            for name in imported(node):
                if name.split(".")[0] not in API_MAY_IMPORT:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}: api must not import {name}"


def imported(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case _:
            return []


def unknown_packages() -> Iterator[str]:
    modules = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    modules |= {path.stem for path in ROOT.glob("*.py")}
    for name in sorted(modules - PACKAGES):
        yield f"{name}: a third top-level package; the two are {' and '.join(sorted(PACKAGES))}"


if __name__ == "__main__":
    sys.exit(main())
