"""Random marker texts that must not leak anywhere, and the search for them."""

import base64
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path


class Canaries:
    """Named random texts: finding one can only mean that it leaked."""

    def __init__(self) -> None:
        self._needles: dict[str, list[bytes]] = {}

    def new(self, name: str) -> str:
        """Create a text: a core that needs no escaping, between characters that JSON escapes."""
        core = f"canary{secrets.token_hex(12)}"
        self.add(name, core)
        return f'„{core}"\\ü'

    def add(self, name: str, text: str) -> str:
        """Search for an existing text too, which needs no escaping."""
        self._needles[name] = list(_forms(text.encode()))
        return text

    def found_in(self, data: bytes) -> set[str]:
        """Names of the texts that occur in `data`."""
        return {
            name
            for name, needles in self._needles.items()
            if any(needle in data for needle in needles)
        }

    def found_below(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """Yield each text's name and the file that contains it; links are not followed."""
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
    """The text plain, in hexadecimal, in UTF-16, and in base64 at every alignment."""
    yield text
    yield text.hex().encode()
    yield text.decode().encode("utf-16-le")
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + text)
        # The first and last four characters also encode bits of the neighbouring bytes.
        yield encoded[4 if before else 0 : -4]
        yield base64.urlsafe_b64encode(bytes(before) + text)[4 if before else 0 : -4]
