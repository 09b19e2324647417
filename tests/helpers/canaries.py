"""Texts that must not turn up anywhere, and the search for them."""

import base64
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path


class Canaries:
    """Named texts; each is random, and so has no other reason to be anywhere."""

    def __init__(self) -> None:
        self._needles: dict[str, list[bytes]] = {}

    def new(self, name: str) -> str:
        """A text with signs that JSON and URLs escape, around a core that survives that."""
        core = f"canary{secrets.token_hex(12)}"
        self.add(name, core)
        return f'„{core}"\\ü'

    def add(self, name: str, text: str) -> str:
        """Look for a text that somebody else has made, and that nothing escapes."""
        self._needles[name] = list(_forms(text.encode()))
        return text

    def found_in(self, data: bytes) -> set[str]:
        """The names of those that some bytes hold."""
        return {
            name
            for name, needles in self._needles.items()
            if any(needle in data for needle in needles)
        }

    def found_below(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """Which ones stand in which files of a folder; links are not followed."""
        for path in files_below(folder):
            for name in sorted(self.found_in(path.read_bytes())):
                yield name, path


def files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _forms(text: bytes) -> Iterable[bytes]:
    """As it is, in hexadecimal, and in base64 whatever stands before and behind it."""
    yield text
    yield text.hex().encode()
    yield text.decode().encode("utf-16-le")
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + text)
        # The first and last four characters hold bits of what is beside it.
        yield encoded[4 if before else 0 : -4]
        yield base64.urlsafe_b64encode(bytes(before) + text)[4 if before else 0 : -4]
