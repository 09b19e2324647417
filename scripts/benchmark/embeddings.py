"""Embeddings: Triptych over HTTP beside sentence-transformers' own `encode` in one process.

Both are up all the time and take turns: within a round each figure of ours is measured next to its
counterpart, in an order that changes from round to round. Same texts, same number format, same
number of threads; `encode` gets all texts in one call, at the better of two batch sizes.
"""

import contextlib
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.benchmark.one_model import serving
from scripts.benchmark.rigs import ENVIRONMENT
from scripts.benchmark.running import Interrupts, StackFailed
from scripts.benchmark.spread import to_spread
from scripts.benchmark.stacks import KEY, OUR_ENVIRONMENT, ROOT

MODEL = "all-minilm-l6-v2"
CLIENTS, TEXTS, REQUESTS = 64, 8, 2
"""Clients at once, texts of a request, and requests of a client in one measurement."""
BATCH_SIZES = (32, 64)
LENGTHS = (3, 6, 12, 25, 50, 100, 180)
"""Words of a text."""
SHORT, SHORT_TIMES = "What is the capital of France?", 100
TEXT = (
    "the a market fell sharply on tuesday while house prices rose in most cities and someone plays "
    "an old guitar near the river under quiet mountains where people compute models of the weather"
)
WORDS = TEXT.split()

FIGURES = {
    f"{CLIENTS} clients x {TEXTS} texts: texts/s, vs `encode`": ("ratio", "≥ 0.95"),
    "one short text: p50 ms beyond the bare call": ("beyond_ms", "≤ 4"),
    "texts/s through HTTP": ("our_rate", ""),
    "texts/s of `encode`": ("bare_rate", ""),
    "one short text through HTTP: p50 ms": ("our_p50_ms", ""),
    "one short text by `encode`: p50 ms": ("bare_p50_ms", ""),
}


def to_texts(seed: int, count: int) -> list[str]:
    """Texts of mixed lengths; the same for the same seed."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.choice(LENGTHS))) for _ in range(count)]


class Bare:
    """The process of the bare library."""

    def __init__(self, folder: Path, dtype: str, env: dict[str, str]) -> None:
        """Start it, and wait until it has loaded the model."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scripts.benchmark.embeddings_bare", str(folder), dtype],
            env={**env, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._hear()

    def encode(self, texts: Sequence[str], **more: int) -> list[float]:
        """Seconds of each call."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"texts": texts, **more}) + "\n")
        self._process.stdin.flush()
        seconds: list[float] = json.loads(self._hear())
        return seconds

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _hear(self) -> str:
        assert self._process.stdout
        if line := self._process.stdout.readline():
            return line
        raise StackFailed(f"the bare library ended with status {self._process.wait()}")


@dataclass(frozen=True, slots=True)
class Client:
    """Asks the service over one connection that is kept alive."""

    port: int

    def connect(self) -> http.client.HTTPConnection:
        """A connection, not yet made."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def embed(self, connection: http.client.HTTPConnection, texts: Sequence[str]) -> None:
        """Ask as the official SDK does, for base64; the answer is read and counted."""
        body = json.dumps({"model": MODEL, "input": texts, "encoding_format": "base64"})
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/embeddings", body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != http.HTTPStatus.OK or answer.count(b'"index"') != len(texts):
            raise StackFailed(f"status {response.status}: {answer[:300]!r}")


def measure_rate(client: Client, texts: Sequence[str]) -> float:
    """Texts a second of all clients, each with its own share of the texts."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        connection = client.connect()
        share = texts[number::CLIENTS]
        try:
            for start in range(0, len(share), TEXTS):
                client.embed(connection, share[start : start + TEXTS])
        except (OSError, http.client.HTTPException, StackFailed) as failure:
            failures.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise StackFailed(str(failures[0]))
    return len(texts) / (time.perf_counter() - began_s)


def measure_p50_ms(client: Client) -> float:
    """Of one short text at a time over one connection."""
    connection = client.connect()
    seconds = []
    for _ in range(SHORT_TIMES):
        began_s = time.perf_counter()
        client.embed(connection, [SHORT])
        seconds.append(time.perf_counter() - began_s)
    connection.close()
    return 1000 * statistics.median(seconds)


@dataclass(slots=True)
class Results:
    """Figures by name, one a round."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add one."""
        self.values.setdefault(name, []).append(value)

    def table(self) -> str:
        """What the README shows."""
        lines = ["| figure | target | median | range |", "|---|---|---|---|"]
        for title, (name, target) in FIGURES.items():
            spread = to_spread(self.values.get(name, []))
            shown = f"{spread.median:.2f} | {spread.low:.2f}-{spread.high:.2f}" if spread else "- |"
            lines.append(f"| {title} | {target} | {shown} |")
        return "\n".join(lines)


def measure_round(number: int, bare: Bare, client: Client, results: Results) -> None:
    """One round: every figure once."""
    texts = to_texts(number, CLIENTS * TEXTS * REQUESTS)

    def rate_bare() -> None:
        seconds = min(bare.encode(texts, batch_size=size)[0] for size in BATCH_SIZES)
        results.add("bare_rate", len(texts) / seconds)

    def rate_ours() -> None:
        results.add("our_rate", measure_rate(client, texts))

    def short_bare() -> None:
        seconds = bare.encode([SHORT], times=SHORT_TIMES)
        results.add("bare_p50_ms", 1000 * statistics.median(seconds))

    def short_ours() -> None:
        results.add("our_p50_ms", measure_p50_ms(client))

    pairs: list[list[Callable[[], None]]] = [[rate_bare, rate_ours], [short_bare, short_ours]]
    for pair in pairs:
        for step in pair if number % 2 else pair[::-1]:
            step()
    last = {name: values[-1] for name, values in results.values.items()}
    results.add("ratio", last["our_rate"] / last["bare_rate"])
    results.add("beyond_ms", last["our_p50_ms"] - last["bare_p50_ms"])
    print(
        f"[bench] round {number}: {last['our_rate']:.0f} texts/s, encode {last['bare_rate']:.0f}; "
        f"one text {last['our_p50_ms']:.1f} ms, encode {last['bare_p50_ms']:.1f} ms",
        flush=True,
    )


def run_embeddings(out: Path, home: Path, rounds: int, interrupts: Interrupts) -> int:
    """Measure, print the table and write it down."""
    from deployments.engines.hardware import pick_dtype

    folder = home / "models" / "minilm"
    dtype = str(pick_dtype("auto", "cpu")).removeprefix("torch.")
    inherited = {key: value for key, value in os.environ.items() if key not in OUR_ENVIRONMENT}
    env = {**inherited, **ENVIRONMENT, "OMP_NUM_THREADS": str(os.cpu_count() or 1)}
    results = Results()
    with (
        served(folder, dtype, env, out / "logs" / "embeddings.log", interrupts) as client,
        contextlib.closing(Bare(folder, dtype, env)) as bare,
    ):
        warm = to_texts(0, CLIENTS * TEXTS)
        measure_rate(client, warm)
        bare.encode(warm)
        for number in range(1, rounds + 1):
            measure_round(number, bare, client, results)
    table = f"{results.table()}\n\nMiniLM-L6 in {dtype}, {os.cpu_count()} cores."
    (out / "table.md").write_text(table + "\n")
    (out / "results.json").write_text(json.dumps(results.values, indent=1))
    print(table)
    return 0


@contextlib.contextmanager
def served(
    folder: Path, dtype: str, env: dict[str, str], log: Path, interrupts: Interrupts
) -> Iterator[Client]:
    """The service with the encoder, for the length of a block.

    Raises:
        StackFailed: it is not ready in time.
    """
    model = {"id": MODEL, "source": str(folder), "engine": {"dtype": dtype}}
    with serving("embedding", model, env, log, interrupts) as port:
        yield Client(port)
