"""Those that are compared: each measured in the same way, and still while another one is.

Servers that wait are not idle: Ray, Serve's controller and vLLM's worker poll. So all processes of
those whose turn it is not are stopped (SIGSTOP), and what they use all the same is reported.
"""

import contextlib
import json
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil

from scripts.benchmark.embeddings.load import (
    Rate,
    Server,
    Vectors,
    embed,
    measure_p50_ms,
    measure_rate,
)
from scripts.benchmark.stacks.bare_process import BareProcess
from scripts.benchmark.stacks.process_cost import read_tree, tree
from scripts.benchmark.stacks.running import Interrupts

CLIENTS, TEXTS = 64, 8
"""Clients at once, and texts of a request."""
SHORT, SHORT_TIMES = "What is the capital of France?", 100
BATCH_SIZES = (32, 64)
RESUMED_S = 3.0
"""What was stopped has timers that are overdue: it gets this long for them."""


class Contender(Protocol):
    """One of those that are compared."""

    @property
    def name(self) -> str:
        """What `--peers` calls it."""
        ...

    @property
    def roots(self) -> tuple[int, ...]:
        """The pids from which all its processes descend."""
        ...

    def rate(self, texts: Sequence[str]) -> Rate:
        """Texts a second of all clients, or at its best."""
        ...

    def short_ms(self) -> float:
        """The median time of one short text, alone."""
        ...

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """One row for each text."""
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """A server, asked over HTTP."""

    name: str
    server: Server
    roots: tuple[int, ...]

    def rate(self, texts: Sequence[str]) -> Rate:
        """Of all clients, each with its own share of the requests."""
        batches = [texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS)]
        return measure_rate(self.server, batches, CLIENTS)

    def short_ms(self) -> float:
        """Of one request at a time over one connection."""
        return measure_p50_ms(self.server, SHORT, SHORT_TIMES)

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """In one request."""
        return embed(self.server, texts)


class Bare:
    """sentence-transformers' own `encode`, in a process that does nothing else."""

    name = "encode"

    def __init__(self, folder: Path, dtype: str, env: dict[str, str]) -> None:
        """Start it, and wait until it has loaded the model."""
        module = "scripts.benchmark.embeddings.bare"
        self._process = BareProcess(module, str(folder), dtype, env=env)
        self.roots = (self._process.pid,)

    def rate(self, texts: Sequence[str]) -> Rate:
        """All texts in one call, at the better of two batch sizes."""
        sizes = BATCH_SIZES
        seconds = min(self._ask(texts=texts, batch_size=size)["seconds"][0] for size in sizes)
        return Rate(len(texts) / seconds, 0.0)

    def short_ms(self) -> float:
        """Of one call at a time."""
        seconds: list[float] = self._ask(texts=[SHORT], times=SHORT_TIMES)["seconds"]
        return 1000 * statistics.median(seconds)

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """In one call."""
        return np.array(self._ask(texts=texts, has_vectors=True)["vectors"], "<f4")

    def close(self) -> None:
        """End it."""
        self._process.close()

    def _ask(self, **asked: object) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._process.ask(json.dumps(asked)))
        return answer


@dataclass(slots=True)
class Others:
    """What those whose turn it was not have used, in cores."""

    cores: float = 0.0


@contextlib.contextmanager
def alone(
    contender: Contender, everyone: Sequence[Contender], interrupts: Interrupts
) -> Iterator[Others]:
    """Within the block all contenders but one are stopped.

    Yields:
        What the others use all the same; filled when the block ends.
    """
    stopped = [root for other in everyone if other is not contender for root in other.roots]
    others, own = Others(), contender.roots
    try:
        _suspend(stopped)
        before_s, began_s = _used_s(own), time.perf_counter()
        yield others
        others.cores = (_used_s(own) - before_s) / (time.perf_counter() - began_s)
    finally:
        with interrupts.held():
            _resume(stopped)
    time.sleep(RESUMED_S)


def _suspend(roots: Sequence[int]) -> None:
    for _ in range(2):  # what was forked while we went through the tree, too
        for pid in (pid for root in roots for pid in tree(root)):
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).suspend()


def _resume(roots: Sequence[int]) -> None:
    for pid in (pid for root in roots for pid in tree(root)):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).resume()


def _used_s(excluded: Sequence[int]) -> float:
    """CPU seconds so far of all our descendants but some, orphans that came to us included."""
    own = {pid for root in excluded for pid in tree(root)} | {os.getpid()}
    samples = read_tree(os.getpid())
    return sum(sample.cpu_s for (pid, _), sample in samples.items() if pid not in own)
