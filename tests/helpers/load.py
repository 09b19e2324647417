"""Clients of many keys that send random requests, disconnect at random, and record the results."""

import asyncio
import contextlib
import json
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx

from tests.helpers.service import Service

_WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


@dataclass
class ClientRequest:
    """One request as its client saw it. Times are by the monotonic clock."""

    id: str
    key: str
    kind: str
    """`whole`, `stream`, `left` (a stream that the client will cut short), `vectors`."""
    prompt_tokens: int
    max_tokens: int
    began_s: float
    admitted_s: float = 0.0
    """When the response began; the request was admitted before that."""
    ended_s: float = 0.0
    status: int = 0
    """HTTP status; 0 without a response."""
    code: str | None = None
    received: int = 0
    """Completion tokens received."""
    is_complete: bool = False
    has_left: bool = False

    @property
    def is_admitted(self) -> bool:
        """Whether the service has certainly admitted the request."""
        return self.status == httpx.codes.OK


@dataclass
class Load:
    """Sends requests for a given time."""

    service: Service
    keys: dict[str, str]
    """Name → secret."""
    seen: list[ClientRequest] = field(default_factory=list)
    is_over: bool = False

    async def run(self, clients_per_key: int, duration_s: float, seed: int) -> None:
        """Send requests with all keys at once."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        timeout = httpx.Timeout(60)
        async with httpx.AsyncClient(limits=limits, timeout=timeout) as client:
            clients = [
                asyncio.create_task(
                    self._run_client(client, name, random.Random(f"{seed} {name} {n}"))
                )
                for name in self.keys
                for n in range(clients_per_key)
            ]
            await asyncio.sleep(duration_s)
            self.is_over = True
            await asyncio.gather(*clients)

    async def _run_client(
        self, client: httpx.AsyncClient, name: str, chance: random.Random
    ) -> None:
        while not self.is_over:
            kind = chance.choices(["whole", "stream", "left", "vectors"], [3, 4, 3, 1])[0]
            words = chance.choices(_WORDS, k=chance.randint(1, 12))
            max_tokens = 0 if kind == "vectors" else chance.randint(5, 60)
            seen = ClientRequest(
                uuid.uuid4().hex, name, kind, len(words), max_tokens, began_s=time.monotonic()
            )
            self.seen.append(seen)
            with contextlib.suppress(httpx.HTTPError):  # the responding replica was killed
                await self._send(client, seen, words, chance)
            seen.ended_s = time.monotonic()
            await asyncio.sleep(chance.uniform(0.05, 0.5))

    async def _send(
        self,
        client: httpx.AsyncClient,
        seen: ClientRequest,
        words: Sequence[str],
        chance: random.Random,
    ) -> None:
        headers = {"authorization": f"Bearer {self.keys[seen.key]}", "x-request-id": seen.id}
        prompt = " ".join(words)
        if seen.kind == "vectors":
            path, body = "embeddings", {"model": "vectors", "input": prompt}
        else:
            path = "completions"
            body = {"model": "echo", "prompt": prompt, "max_tokens": seen.max_tokens}
            body["stream"] = seen.kind != "whole"
        leave_after = chance.randint(1, seen.max_tokens) if seen.kind == "left" else None
        request = client.build_request(
            "POST", f"{self.service.url}/v1/{path}", json=body, headers=headers
        )
        response = await client.send(request, stream=True)
        try:
            seen.status, seen.admitted_s = response.status_code, time.monotonic()
            if seen.status == httpx.codes.OK and seen.kind in ("stream", "left"):
                await self._read_stream(response, seen, leave_after)
            else:
                self._record_whole(await response.aread(), seen)
        finally:
            await response.aclose()

    async def _read_stream(
        self, response: httpx.Response, seen: ClientRequest, leave_after: int | None
    ) -> None:
        async for line in response.aiter_lines():
            event = line.removeprefix("data: ")
            if event == "[DONE]":
                seen.is_complete = True
            elif event:
                self._record_chunk(json.loads(event), seen)
            if leave_after is not None and seen.received >= leave_after:
                seen.has_left = not seen.is_complete
                return

    def _record_chunk(self, chunk: dict, seen: ClientRequest) -> None:
        if "error" in chunk:
            seen.code = chunk["error"]["code"]
            return
        for choice in chunk["choices"]:
            seen.received += len(choice["text"].split())

    def _record_whole(self, content: bytes, seen: ClientRequest) -> None:
        body = json.loads(content)
        if "error" in body:
            seen.code = body["error"]["code"]
            return
        seen.is_complete = True
        seen.received = body["usage"].get("completion_tokens", 0)
        assert body["usage"]["prompt_tokens"] == seen.prompt_tokens
