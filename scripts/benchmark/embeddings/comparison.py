"""Compares embeddings: Triptych over HTTP, sentence-transformers' own `encode`, other servers.

All run all the time and are measured in turn: within a round each figure of Triptych is measured
right beside its counterpart, in an order that changes from round to round, while all others are
stopped (SIGSTOP). Texts, number format and number of threads are the same. `encode` gets all texts
in one call; the servers get them from the same clients. First, all vectors must match Triptych's.
"""

import contextlib
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scripts.benchmark.embeddings.contenders import (
    CLIENTS,
    RESUME_S,
    TEXTS,
    Contender,
    Others,
    alone,
)
from scripts.benchmark.embeddings.load import Vectors
from scripts.benchmark.embeddings.peers import PEERS, Setting, ours
from scripts.benchmark.report.round_statistics import to_spread
from scripts.benchmark.stacks.launch import StackError
from scripts.benchmark.stacks.rigs import ENVIRONMENT, find_dtype
from scripts.benchmark.stacks.running import Interrupts
from scripts.benchmark.stacks.stacks import OUR_ENVIRONMENT

REQUESTS = 4
"""Requests of a client in one measurement."""
WARM_TEXTS = 64
LENGTHS = (3, 6, 12, 25, 50, 100, 180)
"""Words in a text."""
TEXT = (
    "the a market fell sharply on tuesday while house prices rose in most cities and someone plays "
    "an old guitar near the river under quiet mountains where people compute models of the weather"
)
WORDS = TEXT.split()
LEAST_COSINE = 0.999
"""Least cosine with Triptych's vectors; below it, the server runs another model."""

FIGURES = {
    f"{CLIENTS} clients x {TEXTS} texts: texts/s, vs `encode`": ("vs_encode", "≥ 0.95"),
    f"{CLIENTS} clients x {TEXTS} texts: texts/s, vs vLLM": ("vs_vllm", "≥ 1.5"),
    f"{CLIENTS} clients x {TEXTS} texts: texts/s, vs infinity-emb": ("vs_infinity", "≥ 1.2"),
    "one short text: p50 ms more than the bare call": ("beyond_ms", "≤ 4"),
    "texts/s through HTTP": ("triptych_rate", ""),
    "texts/s of `encode`": ("encode_rate", ""),
    "texts/s of vLLM's pooling server": ("vllm_rate", ""),
    "texts/s of infinity-emb": ("infinity_rate", ""),
    "one short text through HTTP: p50 ms": ("triptych_p50_ms", ""),
    "one short text by `encode`: p50 ms": ("encode_p50_ms", ""),
    "cores of the clients": ("client_cores", ""),
    "cores of the stopped contenders": ("others_cores", ""),
}


def to_texts(seed: int, count: int) -> list[str]:
    """Make texts of mixed lengths, the same for the same seed."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.choice(LENGTHS))) for _ in range(count)]


def to_cosine(some: Vectors, others: Vectors) -> float:
    """Return the least cosine of two vectors of the same row; -1 if the shapes differ.

    Args:
        some: (N, D), not normalised.
        others: (N, D), not normalised.
    """
    if some.shape != others.shape:
        return -1.0
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    return float(np.min(np.sum(some * others, axis=1) / lengths))


@dataclass(slots=True)
class Results:
    """Figures by name, one value for each measurement."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> float:
        """Add a value, and return it."""
        self.values.setdefault(name, []).append(value)
        return value

    def table(self) -> str:
        """Format a row for each measured figure, for docs/performance.md."""
        lines = ["| figure | target | median | range |", "|---|---|---|---|"]
        for title, (name, target) in FIGURES.items():
            if spread := to_spread(self.values.get(name, [])):
                places = 3 if name.endswith("cores") else 2
                low, high = f"{spread.low:.{places}f}", f"{spread.high:.{places}f}"
                lines.append(f"| {title} | {target} | {spread.median:.{places}f} | {low}-{high} |")
        return "\n".join(lines)


def to_order(peers: Sequence[Contender], number: int) -> list[Contender]:
    """Return the peers in the order of a round; each is first in turn."""
    first = (number - 1) % len(peers)
    return [*peers[first:], *peers[:first]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Triptych and its peers."""

    our: Contender
    peers: list[Contender]
    results: Results
    interrupts: Interrupts
    resume_s: float = RESUME_S

    def check(self) -> None:
        """Remove every peer whose vectors differ from Triptych's."""
        texts = to_texts(0, TEXTS * len(LENGTHS))
        with self._alone(self.our):
            expected = self.our.vectors(texts)
        for peer in list(self.peers):
            with self._alone(peer):
                cosine = to_cosine(peer.vectors(texts), expected)
            say(f"{peer.name}: cosine with triptych ≥ {cosine:.5f}")
            self.results.add(f"{peer.name}_cosine", cosine)
            if cosine < LEAST_COSINE:
                say(f"leaving out {peer.name}: its vectors differ")
                self.peers.remove(peer)

    def measure_round(self, number: int) -> None:
        """Measure every figure once; Triptych's once for each peer."""
        texts = to_texts(number, CLIENTS * TEXTS * REQUESTS)
        for peer in to_order(self.peers, number):
            turns = [peer, self.our] if number % 2 else [self.our, peer]
            rates = {turn.name: self._rate(turn, texts) for turn in turns}
            ratio = self.results.add(f"vs_{peer.name}", rates[self.our.name] / rates[peer.name])
            shown = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
            say(f"round {number}: {shown} texts/s, ratio {ratio:.2f}")
            if peer.name == "encode":
                self._compare_short(turns, number)

    def _compare_short(self, turns: Sequence[Contender], number: int) -> None:
        times_ms = {turn.name: self._short_ms(turn) for turn in turns}
        self.results.add("beyond_ms", times_ms[self.our.name] - times_ms["encode"])
        shown = ", ".join(f"{name} {time_ms:.1f}" for name, time_ms in times_ms.items())
        say(f"round {number}: one text {shown} ms")

    def _rate(self, contender: Contender, texts: Sequence[str]) -> float:
        with self._alone(contender) as others:
            contender.rate(texts[:WARM_TEXTS])
            rate = contender.rate(texts)
        self.results.add("others_cores", others.cores)
        if contender.name != "encode":
            self.results.add("client_cores", rate.client_cores)
        return self.results.add(f"{contender.name}_rate", rate.texts_per_s)

    def _short_ms(self, contender: Contender) -> float:
        with self._alone(contender):
            return self.results.add(f"{contender.name}_p50_ms", contender.short_ms())

    def _alone(self, contender: Contender) -> contextlib.AbstractContextManager[Others]:
        return alone(contender, [self.our, *self.peers], self.interrupts, self.resume_s)


def run_embeddings(
    out: Path, home: Path, rounds: int, peers: Sequence[str], interrupts: Interrupts
) -> int:
    """Measure, print the table and write it to files."""
    inherited = {key: value for key, value in os.environ.items() if key not in OUR_ENVIRONMENT}
    setting = Setting(
        folder=home / "models" / "minilm",
        dtype=find_dtype("cpu"),
        env={**inherited, **ENVIRONMENT, "OMP_NUM_THREADS": str(os.cpu_count() or 1)},
        home=home,
        logs=out / "logs",
        interrupts=interrupts,
    )
    results = Results()
    try:
        _compare(setting, rounds, peers, results)
    finally:  # an interrupted run reports what it has measured
        with interrupts.held():
            table = f"{results.table()}\n\nMiniLM-L6 in {setting.dtype}, {os.cpu_count()} cores."
            (out / "table.md").write_text(table + "\n")
            (out / "results.json").write_text(json.dumps(results.values, indent=1))
            print(table)
    return 0


def _compare(setting: Setting, rounds: int, peers: Sequence[str], results: Results) -> None:
    with contextlib.ExitStack() as stack:
        our = stack.enter_context(ours(setting))
        started = [peer for name in peers if (peer := start(name, setting, stack.enter_context))]
        comparison = Comparison(our, started, results, setting.interrupts)
        comparison.check()
        if not comparison.peers:
            raise StackError("no peer is left to compare with")
        for number in range(1, rounds + 1):
            comparison.measure_round(number)


def start(
    name: str,
    setting: Setting,
    enter: Callable[[contextlib.AbstractContextManager[Contender]], Contender],
) -> Contender | None:
    """Start a peer; print a line and return None if it cannot be started."""
    say(f"starting {name}")
    try:
        return enter(PEERS[name](setting))
    except StackError as failure:
        say(f"leaving out {name}: {failure}")
        return None


def say(text: str) -> None:
    print(f"[bench] {text}", flush=True)
