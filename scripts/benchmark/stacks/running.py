"""Starts one stack, waits until it answers, and ends it with all of its descendants.

This process is the reaper of all descendants (scripts/service/process_tree.py). Only one stack runs
at a time, so ending a stack ends all of them.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from scripts.benchmark.stacks.launch import Launch, Model, StackError
from scripts.benchmark.stacks.stacks import Stack
from scripts.service import process_tree
from scripts.service.environment import free_ports

START_S = 300.0
POLL_S = 0.5
HOMES = "/tmp"  # a short path, because Unix sockets are below it


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Turns signals into KeyboardInterrupt; during clean-up they only shorten the waiting."""

    def __init__(self, signals: Iterable[signal.Signals] = SIGNALS) -> None:
        """Handle the signals."""
        self.hurry, self._writable = os.pipe()  # readable: do not wait for processes to end
        self._is_held = False
        self._is_pending = False
        for number in signals:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self._is_held:
            raise KeyboardInterrupt
        if self._is_pending:
            os.write(self._writable, b".")
        self._is_pending = True

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold back a signal until the end of the block; a second signal makes `hurry` readable."""
        was_held, self._is_held = self._is_held, True
        try:
            yield
        finally:
            self._is_held = was_held
        if self._is_pending and not was_held:
            self._is_pending = False
            raise KeyboardInterrupt


@dataclass(frozen=True, slots=True)
class Running:
    """A stack that answers requests."""

    base_url: str
    key: str
    model: str
    pid: int | None = None  # the root of its processes, if this program started them


@contextlib.contextmanager
def started(stack: Stack, model: Model, log: Path, interrupts: Interrupts) -> Iterator[Running]:
    """Run a stack for the length of a block.

    Raises:
        StackError: the stack ended before it answered, or did not answer in time.
    """
    home = Path(tempfile.mkdtemp(prefix="bench-", dir=HOMES))
    try:
        launch = stack.launch(model, home, free_ports(1)[0])
        with log.open("w") as output:
            root = process_tree.start(launch.command, cwd=launch.cwd, env=launch.env, log=output)
        try:
            _wait_until_ready(root, launch, log, model.name)
            yield Running(f"http://127.0.0.1:{launch.port}/v1", launch.key, model.name, root.pid)
        finally:
            with interrupts.held():
                process_tree.end(root, interrupts.hurry)
    finally:
        with interrupts.held():
            _clear(home, log)


def _clear(home: Path, log: Path) -> None:
    """Keep Serve's log beside ours, and delete everything else that the stack left."""
    serve_log, ray_logs = home / "logs" / "serve.log", home / "logs" / "ray"
    if serve_log.exists():
        shutil.copy(serve_log, log.with_suffix(".serve.log"))
    if ray_logs.is_symlink():
        for parent in ray_logs.readlink().parents:
            if parent.name.startswith("triptych-"):
                shutil.rmtree(parent, ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)


def _wait_until_ready(root: subprocess.Popen[bytes], launch: Launch, log: Path, model: str) -> None:
    deadline = time.monotonic() + START_S
    while not _answers(launch, model):
        # Not root.poll(): this process adopts orphans, and `end` waits until all are reaped.
        process_tree.reap(root)
        if root.returncode is not None:
            raise StackError(f"ended with status {root.returncode}: {_last_line(log)}")
        if time.monotonic() > deadline:
            raise StackError(f"not ready after {START_S:.0f} s: {_last_line(log)}")
        time.sleep(POLL_S)


def _answers(launch: Launch, model: str) -> bool:
    """Return whether the stack generates a token."""
    question = {"role": "user", "content": "Are you there?"}
    body: dict[str, Any] = {"model": model, "messages": [question], "max_tokens": 2}
    headers = {"Authorization": f"Bearer {launch.key}", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", launch.port, timeout=60)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1].strip()[:300]} (see {log})" if lines else f"see {log}"
