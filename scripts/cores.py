"""Keeps all that can wait a moment away from the cores that vLLM's CPU workers are bound to.

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
ENGINE = "VLLM::"
LLM = re.compile(r"ray::ServeReplica:[^:]+:LLM\b")
MOVABLE = re.compile(
    r"ray::ServeReplica:[^:]+:Ingress\b"
    r"|ray::(ServeController|ProxyActor|HAProxyManager)\b"
    r"|ray::\w+Agent\b|ray-dashboard-"
    r"|\S*/(gcs_server|haproxy) "
    r"|\S*python\S* .*/(dashboard|log_monitor)\.py "
)
"""Not the raylet: replicas to come inherit its cores, and some of them compute."""
PERIOD_S = 5.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A process as it is now."""

    pid: int
    parent: int
    title: str
    cores: frozenset[int]


class Parting:
    """Looks now and then at all that came of a process, and moves what should be elsewhere."""

    def __init__(self, root_pid: int) -> None:
        """Look at nothing yet."""
        self._root_pid = root_pid
        self._renewed_at_s = 0.0
        self._moved: frozenset[int] = frozenset()

    def renew(self) -> None:
        """Look again, unless that was a moment ago; replicas come and go."""
        if time.monotonic() - self._renewed_at_s < PERIOD_S:
            return
        self._renewed_at_s = time.monotonic()
        with contextlib.suppress(psutil.NoSuchProcess):
            seen = list(look(psutil.Process(self._root_pid).children(recursive=True)))
            all_cores = frozenset(os.sched_getaffinity(0))
            for pid, cores in moves(seen, all_cores, self._moved).items():
                move(pid, cores)
                self._moved |= {pid}


def look(processes: Iterable[psutil.Process]) -> Iterable[Seen]:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            cores = frozenset(process.cpu_affinity() or ())
            yield Seen(process.pid, process.ppid(), title, cores)


def moves(
    seen: list[Seen], all_cores: frozenset[int], moved: frozenset[int]
) -> dict[int, frozenset[int]]:
    """Which processes to bind to which cores.

    Args:
        seen: all processes of the service.
        all_cores: what there is.
        moved: processes bound earlier; who is bound otherwise has its own reasons, and stays.
    """
    free = all_cores.difference(*(each.cores for each in seen if each.title.startswith(WORKER)))
    if not free:
        return {}
    engines = {each.parent for each in seen if each.title.startswith(ENGINE)}
    return {
        each.pid: free
        for each in seen
        if each.cores != free
        and (each.cores == all_cores or each.pid in moved)
        and (MOVABLE.match(each.title) or (LLM.match(each.title) and each.pid in engines))
    }


def move(pid: int, cores: frozenset[int]) -> None:
    """Bind every thread; those to come inherit it."""
    with contextlib.suppress(OSError):  # it has ended, or is not ours to move
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), cores)
