"""A bare library in a process of its own, which does nothing else: a line asks, a line answers."""

import subprocess
import sys

from scripts.benchmark.stacks.running import StackError
from scripts.benchmark.stacks.stacks import ROOT


class BareProcess:
    """A module of ours that says a line once it is ready, and then one for each that it gets."""

    def __init__(self, module: str, *arguments: str, env: dict[str, str]) -> None:
        """Start it, and wait until it is ready.

        Raises:
            StackError: it ended instead.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**env, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.pid = self._process.pid
        self._hear()

    def ask(self, line: str) -> str:
        """Say a line, and wait for the answer.

        Raises:
            StackError: it ended instead.
        """
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._hear()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _hear(self) -> str:
        assert self._process.stdout
        if line := self._process.stdout.readline():
            return line
        raise StackError(f"the bare library ended with status {self._process.wait()}")
