"""Measures CPU time and memory of a stack's processes by group, read from /proc.

Processes start and end during a measurement. Each is identified by pid and start time, and counts
with its last reading: an ended process is not lost, and a new one counts from 0. Memory is the
proportional set size, so shared pages count once.
"""

import os
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

GROUPS = ("engine", "replica", "ingress", "ledger", "proxy", "other")
SERVING = ("replica", "ingress", "ledger", "proxy")  # between the engine's processes and the client
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
SAMPLE_S = 2.0

Identity = tuple[int, int]  # pid and start time


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment."""

    title: str
    group: str
    cpu_s: float


@dataclass(slots=True)
class Usage:
    """The CPU time and memory of a tree during a measurement."""

    cpu_s: dict[str, float] = field(default_factory=dict)  # by group
    busiest_s: dict[str, float] = field(default_factory=dict)  # the busiest process of each group
    processes: list[tuple[str, str, float]] = field(default_factory=list)  # title, group, CPU s
    memory_mb: dict[str, float] = field(default_factory=dict)  # by group, at the end


class Meter:
    """Follows the tree of one root process for the length of a `with` block."""

    def __init__(self, root_pid: int, read: Callable[[int], dict[Identity, Sample]] | None = None):
        """Measure the tree of `root_pid`; `read` returns its processes, by default from /proc."""
        self._root_pid = root_pid
        self._read = read or read_tree
        self._first: dict[Identity, Sample] = {}
        self._last: dict[Identity, Sample] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Meter":
        """Start counting."""
        self._first = self._read(self._root_pid)
        self._last = dict(self._first)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop counting."""
        self._stopped.set()
        self._thread.join()
        self._last |= self._read(self._root_pid)

    def _follow(self) -> None:
        while not self._stopped.wait(SAMPLE_S):
            self._last |= self._read(self._root_pid)

    def usage(self) -> Usage:
        """Return the CPU time of the block, and the memory at this moment."""
        usage = to_usage(self._first, self._last)
        usage.memory_mb = memory_mb(self._root_pid)
        return usage


def to_usage(first: dict[Identity, Sample], last: dict[Identity, Sample]) -> Usage:
    """Subtract two readings."""
    usage, by_group = Usage(), defaultdict[str, list[float]](list)
    for identity, sample in last.items():
        used_s = sample.cpu_s - (first[identity].cpu_s if identity in first else 0.0)
        by_group[sample.group].append(used_s)
        usage.processes.append((sample.title, sample.group, used_s))
    usage.processes.sort(key=lambda process: -process[2])
    usage.cpu_s = {group: sum(by_group[group]) for group in GROUPS if by_group[group]}
    usage.busiest_s = {group: max(by_group[group]) for group in GROUPS if by_group[group]}
    return usage


def tree(root_pid: int) -> list[int]:
    """Return the pids of a process and its descendants."""
    try:
        root = psutil.Process(root_pid)
        return [root_pid, *(child.pid for child in root.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def read_tree(root_pid: int) -> dict[Identity, Sample]:
    """Read the CPU time of every process of a tree so far."""
    samples = {}
    for pid in tree(root_pid):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            title = read_title(pid)
        except OSError:  # it has ended
            continue
        started, cpu_s = parse_stat(stat)
        samples[pid, started] = Sample(title, classify(title), cpu_s)
    return samples


def parse_stat(stat: str) -> tuple[int, float]:
    """Return start time in ticks and CPU seconds.

    Source: proc_pid_stat(5), fields 22, 14 and 15.
    """
    fields = stat[stat.rindex(")") + 2 :].split()  # the name before it may contain anything
    return int(fields[19]), (int(fields[11]) + int(fields[12])) * TICK_S


def read_title(pid: int) -> str:
    title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").strip()
    return title.decode("utf-8", "replace")


def classify(title: str) -> str:
    """Return the group of a process by its command line, or by the title that replaced it."""
    program = title.split(" ", 1)[0].rsplit("/", 1)[-1]
    if title.startswith("VLLM::") or title.startswith("ray::RayWorker"):
        return "engine"
    if replica := re.match(r"ray::.*\bServeReplica:[^:]*:(\S+)", title):
        deployment = replica[1].lower()
        if deployment.startswith("ledger"):
            return "ledger"
        return "ingress" if "ingress" in deployment or "router" in deployment else "replica"
    if title.startswith("ray::ProxyActor") or program.startswith("haproxy"):
        return "proxy"
    if "/bin/litellm " in title:
        return "proxy"
    if program == "vllm-rs" or "vllm.entrypoints.openai.api_server" in title:
        return "replica"
    return "other"


def memory_mb(root_pid: int) -> dict[str, float]:
    """Return the proportional set size by group, in MB."""
    total_kb = Counter[str]()
    for pid in tree(root_pid):
        try:
            total_kb[classify(read_title(pid))] += pss_kb(pid)
        except OSError:
            continue
    return {group: total_kb[group] / 1024 for group in GROUPS if group in total_kb}


def pss_kb(pid: int) -> int:
    """Return the proportional set size in kB. Source: proc_pid_smaps(5), `Pss` of smaps_rollup."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0
