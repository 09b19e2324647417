"""Runs PostgreSQL, vLLM and LiteLLM as one: when one ends, all end.

Usage: python -m scripts.benchmark.stacks.litellm_proxy.service PLAN.json (see launch.py)
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts.benchmark.stacks.postgres import make_database, running_postgres

READY_S = 280.0
POLL_S = 0.2
END_S = 8.0  # after SIGTERM


def main() -> int:
    plan = json.loads(Path(sys.argv[1]).read_text())
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(database(plan["postgres"])) if plan["postgres"] else None
        own = {"DATABASE_URL": url} if url else {}
        processes = [
            stack.enter_context(running(plan[name]["command"], {**plan[name]["env"], **own}))
            for name in ("vllm", "litellm")
        ]
        if url:
            make_key(plan, processes, ended)
        watch(processes, ended)
    return int(not ended.is_set())


@contextlib.contextmanager
def database(folder: str) -> Iterator[str]:
    """Run PostgreSQL with its default settings for the length of a block; yields a URL."""
    Path(folder).mkdir(mode=0o700)
    with running_postgres(Path(folder)) as port:
        yield make_database(port, "litellm")


@contextlib.contextmanager
def running(command: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process for the length of a block."""
    process = subprocess.Popen(command, env={**os.environ, **env})
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def watch(processes: list[subprocess.Popen[bytes]], ended: threading.Event) -> None:
    """Return when a process has ended, or this one was told to end."""
    while not ended.wait(POLL_S):
        if any(process.poll() is not None for process in processes):
            return


def make_key(
    plan: dict[str, Any], processes: list[subprocess.Popen[bytes]], ended: threading.Event
) -> None:
    """Make the virtual key over LiteLLM's API, as soon as that answers."""
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s and not ended.wait(POLL_S):
        if any(process.poll() is not None for process in processes):
            return
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            print(f"key: {ask(plan)}", flush=True)
            return


def ask(plan: dict[str, Any]) -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{plan['port']}/key/generate",
        json.dumps(plan["key"]).encode(),
        {"Authorization": f"Bearer {plan['master_key']}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return int(response.status)


if __name__ == "__main__":
    sys.exit(main())
