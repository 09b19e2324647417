"""Runs the load generator against a running stack, and measures what the stack uses."""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.benchmark.load.generator import Load
from scripts.benchmark.stacks.launch import StackError
from scripts.benchmark.stacks.process_cost import Meter

ROOT = Path(__file__).resolve().parents[3]


class Generator:
    """The load generator's process, which waits after its warm-up."""

    def __init__(self, load: Load) -> None:
        """Start the process, and wait until it is warm.

        Raises:
            StackError: the process ended before.
        """
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scripts.benchmark.load.generator"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # the terminal's Ctrl-C reaches this process only
        )
        try:
            self._write_line(json.dumps(asdict(load)))
            self._read_line()
        except BaseException:
            self.close()
            raise

    def measure(self) -> dict[str, Any]:
        """Start the measurement, and return its figures."""
        self._write_line("")
        figures: dict[str, Any] = json.loads(self._read_line())
        return figures

    def close(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()

    def _write_line(self, line: str) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended: `_read_line` reports that
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()

    def _read_line(self) -> str:
        assert self.process.stdout
        if line := self.process.stdout.readline():
            return line
        raise StackError(f"the load generator ended with status {self.process.wait()}")


def measure(load: Load, root_pid: int | None) -> dict[str, Any]:
    """Measure once; with CPU time and memory if this program started the processes.

    Args:
        load: The requests.
        root_pid: The root of the stack's processes; None if another program started them.
    """
    with contextlib.closing(Generator(load)) as generator:
        if root_pid is None:
            return generator.measure()
        with Meter(root_pid) as meter:
            figures = generator.measure()
        usage = meter.usage()
    tokens = max(figures["tokens"], 1)
    return {
        **figures,
        "cpu_us_per_token": {group: s / tokens * 1e6 for group, s in usage.cpu_s.items()},
        "busiest_us_per_token": {group: s / tokens * 1e6 for group, s in usage.busiest_s.items()},
        "memory_mb": usage.memory_mb,
        "processes": [
            {"title": title[:120], "group": group, "cpu_s": round(cpu_s, 3)}
            for title, group, cpu_s in usage.processes
            if cpu_s >= 0.01
        ],
    }
