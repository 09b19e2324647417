"""Compares packages with known advisories, in the format of https://ossf.github.io/osv-schema/.

They are in a file, because a check must not depend on the network; `ask` asks OSV's service.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from scripts.auditing.findings import Check, Finding

OSV_URL = "https://api.osv.dev/v1/querybatch"

_TIMEOUT_S = 30
_BATCH = 500
"""Packages in one question; the service takes 1000."""


def check_advisories(packages: Mapping[str, str], advisories: Path) -> Check:
    """Find packages (name → version) that an advisory of a file is about."""
    known = json.loads(advisories.read_text())
    findings = [
        Finding(f"{name} {version}", f"{advisory['id']}: {advisory['summary']}")
        for advisory in known
        for name, version in packages.items()
        if is_affected(advisory, name, version)
    ]
    return Check("advisories", len(packages), tuple(findings))


def is_affected(advisory: Mapping[str, Any], name: str, version: str) -> bool:
    """Return whether an advisory is about a version of a Python package."""
    return any(
        affected["package"]["ecosystem"] == "PyPI"
        and canonicalize_name(affected["package"]["name"]) == canonicalize_name(name)
        and _covers(affected, version)
        for affected in advisory["affected"]
    )


def _covers(affected: Mapping[str, Any], version: str) -> bool:
    if version in affected.get("versions", ()):
        return True
    try:
        installed = Version(version)
    except InvalidVersion:
        return True  # nobody can say that it is newer
    return any(
        _is_within(each["events"], installed)
        for each in affected.get("ranges", ())
        if each["type"] == "ECOSYSTEM"
    )


def _is_within(events: Iterable[Mapping[str, str]], version: Version) -> bool:
    """Apply the events in the order of their versions, as OSV's schema defines it."""
    is_within = False
    for event in sorted(events, key=_version_of):
        (kind,) = event
        limit = _version_of(event)
        if kind == "introduced":
            is_within = is_within or version >= limit
        elif version > limit or (kind == "fixed" and version == limit):
            is_within = False
    return is_within


def _version_of(event: Mapping[str, str]) -> Version:
    (text,) = event.values()
    return Version(text)


def ask(packages: Mapping[str, str], url: str = OSV_URL) -> Check:
    """Ask OSV's service about packages (name → version); that it does not answer is a finding."""
    names = sorted(packages)
    try:
        findings = [
            finding
            for begin in range(0, len(names), _BATCH)
            for finding in _ask_batch(names[begin : begin + _BATCH], packages, url)
        ]
    except (OSError, ValueError, LookupError) as error:
        findings = [Finding(url, f"does not answer as it should ({type(error).__name__})")]
    return Check("osv.dev", len(packages), tuple(findings))


def _ask_batch(names: Sequence[str], packages: Mapping[str, str], url: str) -> Iterator[Finding]:
    queries = [
        {"package": {"ecosystem": "PyPI", "name": name}, "version": packages[name].split("+")[0]}
        for name in names
    ]
    body = json.dumps({"queries": queries}).encode()
    request = Request(url, body, {"content-type": "application/json"})
    with urlopen(request, timeout=_TIMEOUT_S) as response:
        results = json.load(response)["results"]
    for name, result in zip(names, results, strict=True):
        for advisory in result.get("vulns", ()):
            yield Finding(f"{name} {packages[name]}", str(advisory["id"]))
