"""The load generator: a process that keeps c streams open and prints its measurements.

    stdin   a line of JSON (`Load`)   then, after the warm-up, an empty line: measure
    stdout  a line when warm                                   a line of JSON with the figures

Each worker has one kept-alive connection and sends the next request when its stream is done. Plain
HTTP/1.1 on uvloop, because a client library would take more CPU time than the measured servers.
It runs at real-time priority if permitted: beside engines that spin on every core it has waited
500 ms to be scheduled, which a client on another machine does not.
"""

import asyncio
import gc
import itertools
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from scripts.benchmark.load.http_stream import Response, Stream
from scripts.benchmark.report.round_statistics import percentile

STREAM_TIMEOUT_S = 120  # a longer stream ends the measurement
WARM_TOKENS = 16
CONTEXT = "the sea was calm and the keeper of the light wrote down what he saw "
"""Repeated, it makes long prompts; each word is one token."""


@dataclass(frozen=True, slots=True)
class Load:
    """What to request, from which server, and how often."""

    base_url: str
    key: str
    model: str
    concurrency: int
    requests: int
    max_tokens: int
    first_number: int  # of the prompts, which must differ from all others sent to this server
    has_warm_up: bool = True
    ignores_eos: bool = (
        True  # vLLM's extension; other servers refuse it, and their responses may be shorter
    )
    checks_text: bool = False  # the prompts are words that a fake engine repeats
    context_words: int = 0  # precede each question: a long prompt
    shares_context: bool = False  # so that an engine has it in its prefix cache


class Connection(asyncio.Protocol):
    """One kept-alive connection with at most one open request."""

    def __init__(self) -> None:
        """Make a connection for asyncio to open."""
        self.is_open = False
        self._transport: asyncio.Transport | None = None
        self._response = Response()
        self._stream = Stream()
        self._ended: asyncio.Future[None] | None = None

    async def ask(self, request: bytes, stream: Stream) -> None:
        """Send a request, and fill `stream` until its end."""
        assert self._transport
        self._response, self._stream = Response(), stream
        self._ended = asyncio.get_running_loop().create_future()
        stream.asked_at = time.perf_counter()
        self._transport.write(request)
        async with asyncio.timeout(STREAM_TIMEOUT_S):
            await self._ended
        if not self._response.keeps_alive:
            self.close()

    def close(self) -> None:
        """Close the connection."""
        self.is_open = False
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Take one read; everything in it has the same time."""
        now, response, stream = time.perf_counter(), self._response, self._stream
        try:
            body = response.feed(data)
        except ValueError as error:
            stream.error = f"invalid response: {error}"
            self.close()
            return
        if body and response.status == 200:
            stream.feed(body, now)
        elif body:
            stream.error = f"status {response.status}: {body[:300].decode(errors='replace')}"
        if response.is_done:
            self._end()

    def connection_lost(self, exception: Exception | None) -> None:
        """End the open stream with an error."""
        self.is_open = False
        if self._ended and not self._ended.done() and not self._stream.error:
            self._stream.error = f"connection lost: {exception or 'closed by the server'}"
        self._end()

    def _end(self) -> None:
        if self._ended and not self._ended.done():
            self._ended.set_result(None)


class Generator:
    """The workers and their requests."""

    def __init__(self, load: Load) -> None:
        """Prepare the workers; nothing is connected yet."""
        self._load = load
        url = urlsplit(load.base_url)
        self._host, self._port = url.hostname or "127.0.0.1", url.port
        self._netloc = url.netloc
        self._is_secure = url.scheme == "https"
        self._path = f"{url.path.rstrip('/')}/chat/completions"
        self._connections = [Connection() for _ in range(load.concurrency)]
        self._numbers = itertools.count(load.first_number)
        self._is_aborted = False

    async def run(self, requests: int, max_tokens: int) -> list[Stream]:
        """Send `requests` requests, `concurrency` at once; return the streams as they ended."""
        streams: list[Stream] = []
        left = iter(range(requests))
        async with asyncio.TaskGroup() as group:
            for place in range(min(requests, len(self._connections))):
                group.create_task(self._work(place, left, max_tokens, streams))
        return streams

    async def _work(
        self, place: int, left: Iterator[int], max_tokens: int, streams: list[Stream]
    ) -> None:
        for _ in left:
            if self._is_aborted:
                return
            prompt = to_prompt(next(self._numbers), max_tokens, self._load)
            stream = Stream(prompt, self._load.checks_text)
            request = self._to_request(prompt, max_tokens)
            try:
                await (await self._connected(place)).ask(request, stream)
            except (OSError, TimeoutError) as error:
                stream.error = f"{type(error).__name__}: {error}"
                self._is_aborted = isinstance(error, TimeoutError)
                self._connections[place].close()
            stream.conclude(max_tokens if self._load.ignores_eos else None)
            streams.append(stream)

    async def _connected(self, place: int) -> Connection:
        if not self._connections[place].is_open:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(
                Connection,
                self._host,
                self._port or (443 if self._is_secure else 80),
                ssl=True if self._is_secure else None,
            )
            self._connections[place] = connection
        return self._connections[place]

    def _to_request(self, prompt: str, max_tokens: int) -> bytes:
        members: dict[str, Any] = {
            "model": self._load.model,
            "messages": [{"role": "user", "content": prompt}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "max_tokens": max_tokens,
        }
        if self._load.ignores_eos:
            members["ignore_eos"] = True
        body = json.dumps(members)
        return (
            f"POST {self._path} HTTP/1.1\r\nHost: {self._netloc}\r\n"
            f"Authorization: Bearer {self._load.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


def to_prompt(number: int, words: int, load: Load) -> str:
    """Make a prompt that shares no more than the context; if checked, of `words` numbered words."""
    if load.checks_text:
        return " ".join(f"{number}-{position}" for position in range(words))
    question = f"{number} is the number of this question. Tell me a story about a lighthouse."
    if not load.context_words:
        return question
    context = " ".join((CONTEXT * load.context_words).split()[: load.context_words])
    return f"{context} {question}" if load.shares_context else f"{number} {context} {question}"


def to_figures(load: Load, streams: list[Stream], wall_s: float, cpu_s: float) -> dict[str, Any]:
    """Compute the figures of a measurement; times in ms, of streams without an error."""
    good = [stream for stream in streams if not stream.error]
    errors = [stream.error for stream in streams if stream.error]
    ttfts_s = sorted(stream.ttft_s for stream in good if stream.ttft_s is not None)
    gaps_s = sorted(gap_s for stream in good for gap_s in stream.gaps_s)
    tokens = sum(stream.tokens or 0 for stream in good)
    return {
        "concurrency": load.concurrency,
        "requests": load.requests,
        "max_tokens": load.max_tokens,
        "errors": len(errors),
        "error_samples": sorted(set(errors))[:5],
        "tokens": tokens,
        "chunks": sum(stream.chunks for stream in good),
        "chunks_per_token": sum(stream.chunks for stream in good) / max(tokens, 1),
        "wall_s": wall_s,
        "tokens_per_s": tokens / wall_s,
        "requests_per_s": len(good) / wall_s,
        "ttft_p50_ms": percentile(ttfts_s, 50) * 1000,
        "ttft_p95_ms": percentile(ttfts_s, 95) * 1000,
        "ttft_p99_ms": percentile(ttfts_s, 99) * 1000,
        "gap_p50_ms": percentile(gaps_s, 50) * 1000,
        "gap_p99_ms": percentile(gaps_s, 99) * 1000,
        "load_cores": cpu_s / wall_s,
    }


async def measure(load: Load) -> dict[str, Any]:
    """Warm up, wait for the start line, and measure."""
    generator = Generator(load)
    if load.has_warm_up:
        await generator.run(load.concurrency, min(WARM_TOKENS, load.max_tokens))
    print("warm", flush=True)
    sys.stdin.readline()
    gc.collect()
    gc.disable()  # a collection would look like a pause of the server
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    streams = await generator.run(load.requests, load.max_tokens)
    cpu_s = time.process_time() - cpu_s
    wall_s = time.perf_counter() - wall_s
    return to_figures(load, streams, wall_s, cpu_s)


def raise_priority() -> str:
    """Give this process real-time priority if permitted; return the priority it has."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        return "real-time"
    except PermissionError:
        return "normal"


def main() -> None:
    priority = raise_priority()
    _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))
    load = Load(**json.loads(sys.stdin.readline()))
    figures = uvloop.run(measure(load))
    print(json.dumps({**figures, "load_priority": priority}), flush=True)


if __name__ == "__main__":
    main()
