"""What a check of the dependencies finds."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: a package or a file, and what is wrong with it."""

    subject: str
    problem: str


@dataclass(frozen=True, slots=True)
class Check:
    """One check that was made."""

    name: str
    checked: int
    """How many packages or files it looked at."""
    findings: tuple[Finding, ...]


def to_table(checks: Iterable[Check]) -> str:
    """Render a line for each check, and one below it for each of its findings."""
    lines = [f"{'check':<12} {'checked':>7} {'findings':>8}"]
    for check in checks:
        lines.append(f"{check.name:<12} {check.checked:>7} {len(check.findings):>8}")
        lines += [f"  {finding.subject}: {finding.problem}" for finding in check.findings]
    return "\n".join(lines)
