"""Keeps the proxy, ingress and LLM replicas off the cores that vLLM's CPU workers are bound to.

vLLM binds each worker to its own cores and leaves at least one core to all other processes, but
nothing keeps these there: a proxy that wakes up on a worker's core stops the whole engine, which
waits for that worker. On a GPU no worker is bound, and nothing is moved.
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
class ProcessState:
    """A process at one moment."""

    pid: int
    name: str
    title: str
    cores: frozenset[int]


class AffinityKeeper:
    """Moves the serving processes of a tree to free cores, again and again."""

    def __init__(self, root_pid: int) -> None:
        """Keep the tree of `root_pid` apart; nothing is moved yet."""
        self._root_pid = root_pid
        self._updated_at_s = 0.0

    def update(self) -> None:
        """Move processes if the last look is 5 s ago: replicas come and go."""
        if time.monotonic() - self._updated_at_s < PERIOD_S:
            return
        self._updated_at_s = time.monotonic()
        with contextlib.suppress(psutil.NoSuchProcess):
            states = read_states(psutil.Process(self._root_pid).children(recursive=True))
            for pid, cores in plan_moves(states, frozenset(os.sched_getaffinity(0))).items():
                move(pid, cores)


def read_states(processes: Iterable[psutil.Process]) -> Iterable[ProcessState]:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            cores = frozenset(process.cpu_affinity() or ())
            yield ProcessState(process.pid, process.name(), title, cores)


def plan_moves(
    states: Iterable[ProcessState], all_cores: frozenset[int]
) -> dict[int, frozenset[int]]:
    """Return pid → cores of the processes to move; none if the workers leave no core free."""
    states = list(states)
    bound = [process.cores for process in states if process.title.startswith(WORKER)]
    free = all_cores.difference(*bound)
    if not free or free == all_cores:
        return {}
    return {
        process.pid: free for process in states if is_serving(process) and process.cores != free
    }


def is_serving(process: ProcessState) -> bool:
    return process.name == PROXY or REPLICA.match(process.title) is not None


def move(pid: int, cores: frozenset[int]) -> None:
    """Bind every thread of a process; new threads inherit the cores."""
    with contextlib.suppress(OSError):  # it has ended, or belongs to another user
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), cores)
