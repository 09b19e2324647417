"""Finds files in site-packages that Python runs whenever it starts.

A package that was taken over needs no import to do harm: one line in a `.pth` file is enough.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from importlib.metadata import Distribution
from pathlib import Path

from packaging.utils import canonicalize_name

from scripts.auditing.findings import Check, Finding

KNOWN = {
    "a1_coverage.pth": "coverage",
    "distutils-precedence.pth": "setuptools",
    "__editable__.triptych-*.pth": "triptych",
}
"""Name or pattern of a file → the package that it belongs to."""

_CUSTOMIZATIONS = ("sitecustomize", "usercustomize")


def check_start_files(site_packages: Path, distributions: Iterable[Distribution]) -> Check:
    """Find `.pth` files that are unknown, or changed after they were installed."""
    hashes = dict(_read_hashes(distributions))
    files = sorted(site_packages.glob("*.pth"))
    findings = [problem for file in files for problem in _check(file, hashes)]
    for name in _CUSTOMIZATIONS:
        for file in sorted(site_packages.glob(f"{name}*")):
            findings.append(Finding(file.name, "runs when Python starts, and is not known"))
    return Check("start files", len(files), tuple(findings))


def _read_hashes(distributions: Iterable[Distribution]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield file → its package and the hash that was recorded when it was installed."""
    for distribution in distributions:
        for file in distribution.files or ():
            if file.suffix == ".pth" and file.hash is not None and len(file.parts) == 1:
                name = canonicalize_name(distribution.metadata["Name"])
                yield file.name, (name, f"{file.hash.mode}={file.hash.value}")


def _check(file: Path, hashes: Mapping[str, tuple[str, str]]) -> Iterator[Finding]:
    package = next((KNOWN[each] for each in KNOWN if fnmatch(file.name, each)), None)
    if package is None:
        yield Finding(file.name, "runs when Python starts, and is not known")
        return
    owner, recorded = hashes.get(file.name, (None, None))
    if owner != package:
        yield Finding(file.name, f"belongs to {owner or 'no package'} instead of {package}")
    elif recorded != to_record_hash(file.read_bytes()):
        yield Finding(file.name, f"is not as {package} installed it")


def to_record_hash(data: bytes) -> str:
    """Write a hash as in RECORD files (PEP 376)."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
    return f"sha256={digest.rstrip(b'=').decode()}"
