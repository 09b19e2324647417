"""Compares images: Triptych over HTTP and the bare pipeline in one process, with the demo model.

Both run all the time and are measured in turn: within a round each figure of Triptych is measured
right beside its counterpart, in an order that changes from round to round. Both compute in one
thread, which is what Ray gives a replica with one CPU.
"""

import contextlib
import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.benchmark.report.round_statistics import Spread, to_spread
from scripts.benchmark.stacks.bare_process import BareProcess
from scripts.benchmark.stacks.launch import KEY, ROOT, StackError
from scripts.benchmark.stacks.one_model import serving
from scripts.benchmark.stacks.rigs import ENVIRONMENT
from scripts.benchmark.stacks.running import Interrupts
from scripts.benchmark.stacks.stacks import OUR_ENVIRONMENT

MODEL = ROOT / "scripts" / "demo" / "shapes"
STEPS, GUIDANCE = 20, 3.0
PROMPTS = (
    "a red circle on a white background",
    "a blue square on a white background",
    "a green triangle on a white background",
    "a yellow circle on a black background",
)
CLIENTS = 8
SOLO_IMAGES, CLIENT_IMAGES = 8, 3
"""Images of a single client, and of each of the eight: some seconds on two cores."""
BATCHES = (1, 2, 4, 8)
LONG_STEPS, DISCONNECT_AT = 100, 20
LEDGER_S = 5.0
"""Time until the ledger has counted a request that has ended."""

FIGURES = {
    "one client, images/s, vs the bare loop": ("solo", 0.97),
    "8 clients, images/s, vs the bare pipeline's best batch": ("many", 0.95),
    "first preview of partial_images 2, share of the total time": ("preview", 0.45),
    "steps after a disconnect, including the current one": ("steps_after", 1.0),
}
IS_CEILING = {"preview", "steps_after"}


class Bare:
    """The bare pipeline's process."""

    def __init__(self, env: dict[str, str]) -> None:
        """Start the process, and wait until it has generated an image."""
        module = "scripts.benchmark.images.bare"
        self._process = BareProcess(module, str(MODEL), str(STEPS), str(GUIDANCE), env=env)

    def measure(self, batch: int, images: int) -> float:
        """Measure images per second."""
        return images / float(self._process.ask(f"{batch} {images}"))

    def close(self) -> None:
        """Kill the process."""
        self._process.close()


@dataclass(frozen=True, slots=True)
class Client:
    """A client of the service."""

    port: int
    key: str = KEY

    def connect(self) -> http.client.HTTPConnection:
        """Make a connection; it is opened by the first request."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def post(self, connection: http.client.HTTPConnection, seed: int, **more: Any) -> Any:
        """Request an image and return the response with its body unread.

        Raises:
            StackError: the service answered with an error.
        """
        body = {
            "model": "shapes",
            "prompt": PROMPTS[seed % len(PROMPTS)],
            "seed": seed,
            **more,
        }
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/images/generations", json.dumps(body), headers)
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise StackError(f"status {response.status}: {response.read()[:300]!r}")
        return response

    def generate(self, seeds: range) -> None:
        """Request images one after the other, over one kept-alive connection."""
        connection = self.connect()
        for seed in seeds:
            self.post(connection, seed).read()
        connection.close()

    def image_steps(self) -> int:
        """Return the steps that the ledger has counted for this key so far."""
        connection = self.connect()
        connection.request("GET", "/v1/usage", headers={"Authorization": f"Bearer {self.key}"})
        rows = json.loads(connection.getresponse().read())["data"]
        connection.close()
        return sum(row["image_steps"] for row in rows)


def measure_rate(client: Client, clients: int, images: int) -> float:
    """Measure images per second of `clients` clients that request `images` images each."""
    threads = [
        threading.Thread(
            target=client.generate, args=(range(number * images, (number + 1) * images),)
        )
        for number in range(clients)
    ]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clients * images / (time.perf_counter() - began_s)


def measure_preview(client: Client) -> float:
    """Measure when the first preview arrives, as a share of the time until the image arrives."""
    connection = client.connect()
    began_s = time.perf_counter()
    response = client.post(connection, 1, stream=True, partial_images=2)
    first_s = None
    for line in response:
        if first_s is None and line.startswith(b"event: image_generation.partial_image"):
            first_s = time.perf_counter() - began_s
    connection.close()
    if first_s is None:
        raise StackError("a stream had no preview")
    return first_s / (time.perf_counter() - began_s)


def count_steps_after_disconnect(client: Client) -> float:
    """Count the steps after the last one reported to a client that then disconnected."""
    time.sleep(LEDGER_S)
    before = client.image_steps()
    connection = client.connect()
    response = client.post(connection, 1, stream=True, num_inference_steps=LONG_STEPS)
    progress = f": step {DISCONNECT_AT} of {LONG_STEPS}\n".encode()
    for line in response:
        if line == progress:
            break
    response.close()
    connection.close()
    time.sleep(LEDGER_S)
    return float(client.image_steps() - before - DISCONNECT_AT)


@dataclass(slots=True)
class Results:
    """Figures by name, one value for each round."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        """Add a value."""
        self.values.setdefault(name, []).append(value)

    def spread(self, name: str) -> Spread | None:
        """Return median, least and greatest value."""
        return to_spread(self.values.get(name, []))

    def table(self) -> str:
        """Format the figures for docs/performance.md."""
        lines = ["| figure | target | median | range |", "|---|---|---|---|"]
        for title, (name, target) in FIGURES.items():
            spread = self.spread(name)
            sign = "≤" if name in IS_CEILING else "≥"
            shown = f"{spread.median:.2f} | {spread.low:.2f}-{spread.high:.2f}" if spread else "- |"
            lines.append(f"| {title} | {sign} {target:g} | {shown} |")
        return "\n".join(lines)


def measure_round(number: int, bare: Bare, client: Client, results: Results) -> None:
    """Measure every figure once."""

    def solo_bare() -> None:
        results.add("bare_solo", bare.measure(1, SOLO_IMAGES))

    def solo_ours() -> None:
        results.add("our_solo", measure_rate(client, 1, SOLO_IMAGES))

    def many_bare() -> None:
        rates = {batch: bare.measure(batch, CLIENTS * CLIENT_IMAGES) for batch in BATCHES}
        best = max(rates, key=lambda batch: rates[batch])
        results.add("bare_many", rates[best])
        results.add("best_batch", best)

    def many_ours() -> None:
        results.add("our_many", measure_rate(client, CLIENTS, CLIENT_IMAGES))

    pairs: list[list[Callable[[], None]]] = [[solo_bare, solo_ours], [many_bare, many_ours]]
    for pair in pairs:
        for step in pair if number % 2 else pair[::-1]:
            step()
    for name in ("solo", "many"):
        ours, theirs = results.values[f"our_{name}"][-1], results.values[f"bare_{name}"][-1]
        results.add(name, ours / theirs)
        print(f"[bench] round {number}  {name}: {ours:.2f} images/s, bare {theirs:.2f}", flush=True)
    results.add("preview", measure_preview(client))
    results.add("steps_after", count_steps_after_disconnect(client))


def run_images(out: Path, rounds: int, interrupts: Interrupts) -> int:
    """Measure, print the table and write it to files."""
    inherited = {key: value for key, value in os.environ.items() if key not in OUR_ENVIRONMENT}
    env = {**inherited, **ENVIRONMENT}
    results = Results()
    with (
        served(env, out / "logs" / "images.log", interrupts) as client,
        contextlib.closing(Bare(env)) as bare,
    ):
        measure_rate(client, CLIENTS, 1)  # warm-up: what is loaded on first use
        bare.measure(CLIENTS, CLIENTS)
        for number in range(1, rounds + 1):
            measure_round(number, bare, client, results)
    table = results.table()
    (out / "table.md").write_text(table + "\n")
    (out / "results.json").write_text(json.dumps(results.values, indent=1))
    print(table)
    return 0


@contextlib.contextmanager
def served(env: dict[str, str], log: Path, interrupts: Interrupts) -> Iterator[Client]:
    """Run the service with the image model and a ledger for the length of a block.

    Raises:
        StackError: the service is not ready in time.
    """
    engine = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "dtype": "float32"}
    model = {"id": "shapes", "source": str(MODEL), "engine": engine}
    with serving("diffusion", model, env, log, interrupts) as port:
        client = Client(port)
        client.generate(range(1))
        yield client
