"""Measures how long each of the most expensive bodies keeps the event loop of an ingress.

The real application runs in this process over models that only encode their request, as a handle
does. A turn is the CPU time that the loop spends between two rounds of its other tasks, so other
programs on the machine do not count.

Usage: python -m scripts.benchmark.bodies.main [--at-once N] [WORD...]

Only the bodies whose name has one of the words; N of each at once (default: 1).
"""

import argparse
import asyncio
import gc
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec
from starlette.applications import Starlette

from api.app import create_app
from api.errors import OverloadedError
from api.registry import ModelEntry, Models, Registry
from api.services import Services
from api.settings import Policy
from scripts.benchmark.bodies.bodies import Body, all_bodies

_CHUNK_BYTES = 64 * 1024


class Encoder:
    """A backend of any kind that encodes its request twice, as a handle does, and refuses it."""

    async def complete(self, request: Any) -> NoReturn:
        """Encode a request as MessagePack and as a pickle."""
        msgspec.msgpack.encode(request)
        pickle.dumps(request)
        raise OverloadedError("This model only encodes.")

    embed = score = generate = complete


@dataclass(slots=True)
class Figures:
    """What the requests with one body cost."""

    status: int
    cpu_ms: float
    turn_ms: float
    """The longest turn."""


def build_app(policy: Policy) -> Starlette:
    """Build the application over three models."""
    backend: Any = Encoder()
    models = Registry(
        [
            ModelEntry("llm", "llm", "ready", backend, 0),
            ModelEntry("encoder", "embedding", "ready", backend, 0),
            ModelEntry("painter", "diffusion", "ready", backend, 0),
        ]
    )
    return create_app(Models(models), None, Services(policy=policy))


async def send(app: Starlette, body: Body) -> int:
    """Send a body in chunks, as a server receives it, and return the status of the answer."""
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": body.path,
        "raw_path": body.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", body.content_type.encode())],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    chunks = _to_chunks(body.data)
    statuses = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        message = next(chunks, None)
        return message or await asyncio.get_running_loop().create_future()

    async def respond(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(scope, receive, respond)
    return int(statuses[0])


def _to_chunks(data: bytes) -> Iterator[dict[str, Any]]:
    for begin in range(0, max(len(data), 1), _CHUNK_BYTES):
        end = begin + _CHUNK_BYTES
        yield {"type": "http.request", "body": data[begin:end], "more_body": end < len(data)}


async def measure(app: Starlette, body: Body, at_once: int) -> Figures:
    """Send a body `at_once` times, and watch the loop."""
    turns_s: list[float] = []

    async def watch() -> None:
        last_s = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now_s = time.thread_time()
            turns_s.append(now_s - last_s)
            last_s = now_s

    watching = asyncio.create_task(watch())
    began_s = time.thread_time()
    statuses = await asyncio.gather(*(send(app, body) for _ in range(at_once)))
    cpu_s = time.thread_time() - began_s
    watching.cancel()
    return Figures(statuses[0], cpu_s * 1000, max(turns_s) * 1000)


def to_line(body: Body, figures: Figures) -> str:
    """Render a row of the table in docs/performance.md."""
    verdict = "accepted" if figures.status == 503 else str(figures.status)
    return (
        f"| `{body.path}` | {body.name} | {len(body.data) / 1e6:.1f} MB | {verdict} "
        f"| {figures.cpu_ms:.0f} ms | {figures.turn_ms:.0f} ms |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--lenient", action="store_true")
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)  # as an ingress replica does
    app = build_app(Policy(parameters="lenient" if options.lenient else "strict"))
    print("| endpoint | body | size | answer | CPU | longest turn |\n|---|---|---|---|---|---|")
    for body in all_bodies():
        if not options.words or any(word in f"{body.path} {body.name}" for word in options.words):
            figures = asyncio.run(measure(app, body, options.at_once))
            print(to_line(body, figures), flush=True)


if __name__ == "__main__":
    main()
