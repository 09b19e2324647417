"""One measurement: the load generator against a running stack, and what the stack used."""

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scripts.benchmark.load.generator import Load
from scripts.benchmark.stacks.process_cost import Meter
from scripts.benchmark.stacks.running import StackError

ROOT = Path(__file__).resolve().parents[3]


class Generator:
    """The load generator's process, which waits for the word after its warm-up."""

    def __init__(self, load: Load) -> None:
        """Start it; returns when it is warm.

        Raises:
            StackError: it ended before that.
        """
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scripts.benchmark.load.generator"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # the terminal's Ctrl-C is for us
        )
        try:
            self._say(json.dumps(asdict(load)))
            self._hear()
        except BaseException:
            self.close()
            raise

    def measure(self) -> dict[str, Any]:
        """Give the word, and return the figures."""
        self._say("")
        figures: dict[str, Any] = json.loads(self._hear())
        return figures

    def close(self) -> None:
        """End it, wherever it is."""
        self.process.kill()
        self.process.wait()

    def _say(self, line: str) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended: `_hear` says so
            self.process.stdin.write(f"{line}\n")
            self.process.stdin.flush()

    def _hear(self) -> str:
        assert self.process.stdout
        if line := self.process.stdout.readline():
            return line
        raise StackError(f"the load generator ended with status {self.process.wait()}")


def measure(load: Load, root_pid: int | None) -> dict[str, Any]:
    """The figures of one measurement, with CPU and memory where the processes are ours."""
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
