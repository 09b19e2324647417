"""Runs a bare library in its own process; each request and each response is one line."""

import subprocess
import sys

from scripts.benchmark.stacks.launch import ROOT, StackError


class BareProcess:
    """A module that prints a line when it is ready, then one line for each line it reads."""

    def __init__(self, module: str, *arguments: str, env: dict[str, str]) -> None:
        """Start the module and wait until it is ready.

        Raises:
            StackError: the process ended before.
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
        self._read_line()

    def ask(self, line: str) -> str:
        """Send a line and return the response.

        Raises:
            StackError: the process ended instead.
        """
        assert self._process.stdin
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._read_line()

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()

    def _read_line(self) -> str:
        assert self._process.stdout
        if line := self._process.stdout.readline():
            return line
        raise StackError(f"the bare library ended with status {self._process.wait()}")
