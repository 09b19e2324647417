"""Generated parts of Markdown files: what is between `<!-- begin: NAME -->` and `<!-- end -->`."""

import re
from collections.abc import Callable, Iterable

_PART = re.compile(r"(<!-- begin: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def find_names(text: str) -> list[str]:
    """List the names of the generated parts, in order."""
    return [name for _, name, _ in _PART.findall(text)]


def replace_parts(text: str, generate: Callable[[str], Iterable[str]]) -> str:
    """Replace every generated part by the lines that `generate` makes for its name."""
    return _PART.sub(
        lambda match: match[1] + "".join(f"{line}\n" for line in generate(match[2])) + match[3],
        text,
    )
