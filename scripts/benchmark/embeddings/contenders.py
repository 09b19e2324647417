"""The contenders of a comparison; all are measured in the same way, one at a time.

A waiting server is not idle: Ray, Serve's controller and vLLM's worker poll. So all processes of
the other contenders are stopped (SIGSTOP), and the CPU time they still use is reported.
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
"""Clients at once, and texts in a request."""
SHORT, SHORT_TIMES = "What is the capital of France?", 100
BATCH_SIZES = (32, 64)
RESUME_S = 3.0
"""Time for resumed processes to catch up with their overdue timers."""


class Contender(Protocol):
    """A server or a library that is compared."""

    @property
    def name(self) -> str:
        """Its name in `--peers`."""
        ...

    @property
    def roots(self) -> tuple[int, ...]:
        """The pids that all its processes descend from."""
        ...

    def rate(self, texts: Sequence[str]) -> Rate:
        """Measure texts per second of all clients together."""
        ...

    def short_ms(self) -> float:
        """Measure the median time of one short text, alone, in ms."""
        ...

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Embed texts: (N, D) float32."""
        ...


@dataclass(frozen=True, slots=True)
class Served:
    """A server, measured over HTTP."""

    name: str
    server: Server
    roots: tuple[int, ...]

    def rate(self, texts: Sequence[str]) -> Rate:
        """Divide the requests among all clients."""
        batches = [texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS)]
        return measure_rate(self.server, batches, CLIENTS)

    def short_ms(self) -> float:
        """Send one request at a time over one connection."""
        return measure_p50_ms(self.server, SHORT, SHORT_TIMES)

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Embed all texts in one request."""
        return embed(self.server, texts)


class Bare:
    """sentence-transformers' own `encode`, in its own process."""

    name = "encode"

    def __init__(self, folder: Path, dtype: str, env: dict[str, str]) -> None:
        """Start the process, and wait until it has loaded the model."""
        module = "scripts.benchmark.embeddings.bare"
        self._process = BareProcess(module, str(folder), dtype, env=env)
        self.roots = (self._process.pid,)

    def rate(self, texts: Sequence[str]) -> Rate:
        """Encode all texts in one call, with the faster of two batch sizes."""
        sizes = BATCH_SIZES
        seconds = min(self._ask(texts=texts, batch_size=size)["seconds"][0] for size in sizes)
        return Rate(len(texts) / seconds, 0.0)

    def short_ms(self) -> float:
        """Encode one text in each call."""
        seconds: list[float] = self._ask(texts=[SHORT], times=SHORT_TIMES)["seconds"]
        return 1000 * statistics.median(seconds)

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Encode all texts in one call."""
        return np.array(self._ask(texts=texts, has_vectors=True)["vectors"], "<f4")

    def close(self) -> None:
        """Kill the process."""
        self._process.close()

    def _ask(self, **request: object) -> dict[str, Any]:
        response: dict[str, Any] = json.loads(self._process.ask(json.dumps(request)))
        return response


@dataclass(slots=True)
class Others:
    """CPU time of the stopped contenders, in cores."""

    cores: float = 0.0


@contextlib.contextmanager
def alone(
    contender: Contender,
    contenders: Sequence[Contender],
    interrupts: Interrupts,
    resume_s: float = RESUME_S,
) -> Iterator[Others]:
    """Stop all contenders but one for the length of a block.

    Args:
        contender: The one that runs on.
        contenders: All of them.
        interrupts: Held back while the others are resumed.
        resume_s: How long to wait afterwards.

    Yields:
        What the others use nevertheless; set when the block ends.
    """
    stopped = [root for other in contenders if other is not contender for root in other.roots]
    others, own = Others(), contender.roots
    try:
        _suspend(stopped)
        before_s, began_s = _used_s(own), time.perf_counter()
        yield others
        others.cores = (_used_s(own) - before_s) / (time.perf_counter() - began_s)
    finally:
        with interrupts.held():
            _resume(stopped)
    time.sleep(resume_s)


def _suspend(roots: Sequence[int]) -> None:
    for _ in range(2):  # twice, because a process may fork in the meantime
        for pid in (pid for root in roots for pid in tree(root)):
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).suspend()


def _resume(roots: Sequence[int]) -> None:
    for pid in (pid for root in roots for pid in tree(root)):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).resume()


def _used_s(excluded: Sequence[int]) -> float:
    """Return CPU seconds so far of all descendants, adopted orphans included, without some."""
    own = {pid for root in excluded for pid in tree(root)} | {os.getpid()}
    samples = read_tree(os.getpid())
    return sum(sample.cpu_s for (pid, _), sample in samples.items() if pid not in own)
