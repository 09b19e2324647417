"""Clients that read many streams at once and record how each ended."""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.helpers.service import Service, sse_events


@dataclass
class StreamResult:
    """The text of one stream so far, by choice, and how the stream ended."""

    prompt: str
    texts: dict[int, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    is_done: bool = False
    is_cut: bool = False
    first_at_s: float = 0.0
    ended_at_s: float = 0.0

    def is_complete(self, tokens: int) -> bool:
        words = self.prompt.split()
        expected = " ".join((words * (tokens // len(words) + 1))[:tokens])
        return self.is_done and not self.errors and set(self.texts.values()) == {expected}


async def read(client: httpx.AsyncClient, result: StreamResult, **members: Any) -> None:
    """Request a stream and read it until it ends or breaks."""
    body = {"model": "echo", "prompt": result.prompt, "stream": True, **members}
    try:
        async with client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != httpx.codes.OK:
                result.errors.append(json.loads(await response.aread())["error"]["code"])
            async for line in response.aiter_lines():
                for event in sse_events(iter([line])):
                    record(result, event)
    except httpx.TransportError:
        result.is_cut = True
    result.ended_at_s = time.monotonic()


def record(result: StreamResult, event: str) -> None:
    if event == "[DONE]":
        result.is_done = True
        return
    content = json.loads(event)
    if "error" in content:
        result.errors.append(content["error"]["code"])
        return
    result.first_at_s = result.first_at_s or time.monotonic()
    for choice in content["choices"]:
        result.texts[choice["index"]] = result.texts.get(choice["index"], "") + choice["text"]


def new_client(service: Service) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {service.key}"}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    return httpx.AsyncClient(base_url=service.url, headers=headers, timeout=60, limits=limits)


async def read_all(service: Service, requests: list[dict[str, Any]]) -> list[StreamResult]:
    """Read several streams at once, each with its own words."""
    results = [
        StreamResult(" ".join(f"{n}.{word}" for word in range(7))) for n in range(len(requests))
    ]
    async with new_client(service) as client, asyncio.TaskGroup() as group:
        for result, members in zip(results, requests, strict=True):
            group.create_task(read(client, result, **members))
    return results


def is_broken_off(result: StreamResult) -> bool:
    """Whether the stream ended with exactly one error event and without `[DONE]`."""
    return result.errors == ["engine_unavailable"] and not result.is_done and not result.is_cut


async def connect_and_disconnect(service: Service, count: int, **members: Any) -> None:
    """Run `count` clients, five at a time, that disconnect within 50 ms of their request."""
    for first in range(0, count, 5):
        seeds = range(first, first + 5)
        await asyncio.gather(*(_ask_and_disconnect(service, seed, **members) for seed in seeds))


async def _ask_and_disconnect(service: Service, seed: int, **members: Any) -> None:
    timeout_s = random.Random(seed).uniform(0, 0.05)
    async with new_client(service) as client:
        asking = asyncio.ensure_future(
            read(client, StreamResult("a b c"), stream=bool(seed % 3), **members)
        )
        await asyncio.wait({asking}, timeout=timeout_s)
        asking.cancel()
        await asyncio.wait({asking})
