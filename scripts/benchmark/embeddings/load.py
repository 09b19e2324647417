"""The clients of an embeddings server: kept-alive connections and plain HTTP on uvloop.

They share the cores with the servers that they measure. So requests are built and connections are
open before the clock starts, and responses are only counted while it runs.
"""

import asyncio
import json
import re
import statistics
import time
from base64 import b64decode
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import uvloop

from scripts.benchmark.load.generator import Connection
from scripts.benchmark.load.http_stream import Stream
from scripts.benchmark.stacks.launch import StackError

Result = TypeVar("Result")
Vectors = npt.NDArray[np.float32]

MEMBER = re.compile(rb'"index":')


@dataclass(frozen=True, slots=True)
class Server:
    """A server of OpenAI's embeddings on this machine."""

    port: int
    model: str
    key: str
    path: str = "/v1/embeddings"
    encoding: str = "base64"  # what the official SDK asks for

    def to_request(self, texts: Sequence[str]) -> bytes:
        """The bytes of one request."""
        request = {"model": self.model, "input": list(texts), "encoding_format": self.encoding}
        body = json.dumps(request).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(slots=True)
class Answer(Stream):
    """The response to one request, as bytes."""

    pieces: list[bytes] = field(default_factory=list)

    def feed(self, body: bytes, now: float) -> None:
        """Add a piece of the body, received at `now`."""
        self.pieces.append(body)
        self.last_at = now

    def check(self, count: int) -> bytes:
        """Return the body, which must have `count` vectors.

        Raises:
            StackError: the body has another number of vectors, or the request failed.
        """
        body = b"".join(self.pieces)
        found = len(MEMBER.findall(body))
        if self.error or found != count:
            raise StackError(self.error or f"{found} vectors for {count} texts: {body[:300]!r}")
        return body


@dataclass(frozen=True, slots=True)
class Rate:
    """The speed of a server, and the CPU time of its clients."""

    texts_per_s: float
    client_cores: float


def measure_rate(server: Server, batches: Sequence[Sequence[str]], clients: int) -> Rate:
    """Measure texts per second; each client sends its share of the batches one by one.

    Raises:
        StackError: a request failed.
    """
    requests = [server.to_request(batch) for batch in batches]
    answers = [Answer() for _ in batches]

    async def measure() -> tuple[float, float]:
        connections = [await _connect(server) for _ in range(clients)]
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for place, connection in enumerate(connections):
                share = zip(requests[place::clients], answers[place::clients], strict=True)
                group.create_task(_ask_in_turn(connection, share))
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
        for connection in connections:
            connection.close()
        return wall_s, cpu_s

    wall_s, cpu_s = _run(measure())
    for answer, batch in zip(answers, batches, strict=True):
        answer.check(len(batch))
    return Rate(sum(map(len, batches)) / wall_s, cpu_s / wall_s)


def measure_p50_ms(server: Server, text: str, times: int) -> float:
    """Measure the median time in ms of one text at a time over one connection.

    Raises:
        StackError: a request failed.
    """
    request, answers = server.to_request([text]), [Answer() for _ in range(times)]

    async def measure() -> None:
        connection = await _connect(server)
        await _ask_in_turn(connection, ((request, answer) for answer in answers))
        connection.close()

    _run(measure())
    for answer in answers:
        answer.check(1)
    return 1000 * statistics.median(answer.last_at - answer.asked_at for answer in answers)


def embed(server: Server, texts: Sequence[str]) -> Vectors:
    """Return the vectors of texts, in their order: (N, D) float32.

    Raises:
        StackError: the request failed.
    """
    answer = Answer()

    async def ask() -> None:
        connection = await _connect(server)
        await _ask_in_turn(connection, [(server.to_request(texts), answer)])
        connection.close()

    _run(ask())
    return read_vectors(answer.check(len(texts)))


def read_vectors(body: bytes) -> Vectors:
    """Read the vectors of a response, base64 or numbers: (N, D) float32, in order of index."""
    members = sorted(json.loads(body)["data"], key=lambda member: int(member["index"]))
    return np.array([_to_vector(member["embedding"]) for member in members])


def _to_vector(embedding: str | list[float]) -> Vectors:
    if isinstance(embedding, str):
        return np.frombuffer(b64decode(embedding), "<f4")
    return np.array(embedding, "<f4")


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        return uvloop.run(work)
    except ExceptionGroup as group:  # of the clients; the first failure is enough
        raise StackError(repr(group.exceptions[0])) from group
    except (OSError, TimeoutError) as error:
        raise StackError(repr(error)) from error


async def _connect(server: Server) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", server.port)
    return connection


async def _ask_in_turn(connection: Connection, share: Iterable[tuple[bytes, Answer]]) -> None:
    for request, answer in share:
        if not connection.is_open:
            raise ConnectionError("the server closed a kept-alive connection")
        await connection.ask(request, answer)
