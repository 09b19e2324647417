"""Reads the locks: exact versions, and a hash for every file that may be installed."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from scripts.auditing.findings import Check, Finding

_PIN = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)(\[[^\]]*\])?==(?P<version>[^\s;*]+)( *;[^\\]*)?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Pin:
    """A package of a lock."""

    name: str
    version: str
    hashes: tuple[str, ...]
    """SHA-256 of each of its files, in hexadecimal digits."""


def read_lock(path: Path) -> list[Pin]:
    """Read the pins of a lock of uv or pip; lines that are none are left out."""
    return [pin for pin in map(_to_pin, _read_lines(path)) if pin is not None]


def check_locks(locks: Iterable[Path], node_lock: Path) -> Check:
    """Find requirements without an exact version or a hash, and options that weaken both."""
    locks = list(locks)
    problems = [finding for lock in locks for finding in _find_unpinned(lock)]
    return Check("hashes", len(locks) + 1, (*problems, *_find_unhashed_node(node_lock)))


def _read_lines(path: Path) -> Iterator[str]:
    """Yield requirements and options, whose lines may continue after a backslash."""
    text = re.sub(r"(^|\s)#[^\n]*", "", path.read_text())
    for line in text.replace("\\\n", " ").splitlines():
        if stripped := line.strip():
            yield stripped


def _to_pin(line: str) -> Pin | None:
    requirement = line.split(" --hash=")[0].strip()
    match = _PIN.fullmatch(requirement)
    if match is None:
        return None
    return Pin(canonicalize_name(match["name"]), match["version"], tuple(_HASH.findall(line)))


def _find_unpinned(lock: Path) -> Iterator[Finding]:
    for line in _read_lines(lock):
        pin = _to_pin(line)
        if pin is None:
            yield Finding(lock.name, f"'{line[:60]}' is no package with an exact version")
        elif not pin.hashes:
            yield Finding(lock.name, f"{pin.name} has no SHA-256 hash")


def _find_unhashed_node(lock: Path) -> Iterator[Finding]:
    packages = json.loads(lock.read_text())["packages"]
    for path, package in packages.items():
        if path and not str(package.get("integrity", "")).startswith("sha512-"):
            yield Finding(lock.name, f"{path} has no SHA-512 hash")
