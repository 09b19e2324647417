"""`scripts/docs`: rewrites the generated parts of the documents from the code.

A part's name is a model of `deployments.config` (`MODULE:CLASS`), or `parameters`.
"""

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from api.schema.parameter_table import to_lines
from scripts.documentation.configuration_table import to_table
from scripts.documentation.markers import replace_parts

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (ROOT / "docs" / "configuration.md", ROOT / "docs" / "parameters.md")


def generate(name: str) -> Iterator[str]:
    """Make the lines of one generated part."""
    if name == "parameters":
        return to_lines()
    module, _, model = name.partition(":")
    return to_table(getattr(importlib.import_module(module), model))


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite the documents, or with `--check` list those that are out of date."""
    parser = argparse.ArgumentParser(prog="scripts/docs", description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if out of date")
    is_check = parser.parse_args(arguments).check
    outdated = []
    for path in DOCUMENTS:
        text = path.read_text()
        current = replace_parts(text, generate)
        if current == text:
            continue
        outdated.append(path)
        if not is_check:
            path.write_text(current)
    for path in outdated:
        print(f"{path.relative_to(ROOT)}: {'out of date' if is_check else 'rewritten'}")
    return 1 if is_check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
