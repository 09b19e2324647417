"""Keeps what passes tokens on away from the cores that vLLM's CPU workers are bound to.

vLLM binds each worker to cores of its own and leaves one or more to everything else, but nothing
keeps everything else there: a proxy that wakes up on a worker's core stops the whole engine, which
waits for that worker. On a GPU no worker is bound, and nothing happens here.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

WORKER = "VLLM::Worker"
REPLICA = re.compile(r"ray::ServeReplica:[^:]+:(Ingress|LLM)\b")
PROXY = "haproxy"
PERIOD_S = 5.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A process as it is now."""

    pid: int
    name: str
    title: str
    cores: frozenset[int]


class Parting:
    """Looks now and then at all that came of a process, and moves what should be elsewhere."""

    def __init__(self, root_pid: int) -> None:
        """Look at nothing yet."""
        self._root_pid = root_pid
        self._renewed_at_s = 0.0

    def renew(self) -> None:
        """Look again, unless that was a moment ago; replicas come and go."""
        if time.monotonic() - self._renewed_at_s < PERIOD_S:
            return
        self._renewed_at_s = time.monotonic()
        with contextlib.suppress(psutil.NoSuchProcess):
            seen = look(psutil.Process(self._root_pid).children(recursive=True))
            for pid, cores in moves(seen, frozenset(os.sched_getaffinity(0))).items():
                move(pid, cores)


def look(processes: Iterable[psutil.Process]) -> Iterable[Seen]:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            cores = frozenset(process.cpu_affinity() or ())
            yield Seen(process.pid, process.name(), title, cores)


def moves(seen: Iterable[Seen], all_cores: frozenset[int]) -> dict[int, frozenset[int]]:
    """Which processes to bind to which cores; none where workers leave no core free."""
    seen = list(seen)
    bound = [process.cores for process in seen if process.title.startswith(WORKER)]
    free = all_cores.difference(*bound)
    if not free or free == all_cores:
        return {}
    return {process.pid: free for process in seen if is_serving(process) and process.cores != free}


def is_serving(process: Seen) -> bool:
    return process.name == PROXY or REPLICA.match(process.title) is not None


def move(pid: int, cores: frozenset[int]) -> None:
    """Bind every thread; those to come inherit it."""
    with contextlib.suppress(OSError):  # it has ended, or is not ours to move
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), cores)
