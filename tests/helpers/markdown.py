"""The documents of the project, and the fenced code blocks in them.

A comment on the line before a block says how tests treat it: `<!-- not run: REASON -->` or
`<!-- needs: MODEL -->`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|needs): (?P<reason>[^\n]+?) -->\n)?"
    r"^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced code block."""

    document: Path
    line: int
    """Line of its first code line, from 1."""
    language: str
    code: str
    not_run: str | None
    """Why tests do not run it."""
    needs: str | None
    """The model that it needs beside those of the shipped configuration."""

    def __str__(self) -> str:
        """Where the block is."""
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def read_blocks(document: Path) -> Iterator[Block]:
    """Read the code blocks of a document, in order."""
    text = document.read_text()
    for match in _BLOCK.finditer(text):
        mark = match["mark"]
        yield Block(
            document=document,
            line=text.count("\n", 0, match.start("code")) + 1,
            language=match["language"],
            code=match["code"],
            not_run=match["reason"] if mark == "not run" else None,
            needs=match["reason"] if mark == "needs" else None,
        )


def find_anchors(document: Path) -> set[str]:
    """List the anchors that GitHub gives the headings of a document."""
    text = _BLOCK.sub("", document.read_text())
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in _HEADING.findall(text)
    }
