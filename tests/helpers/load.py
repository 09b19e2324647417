"""Clients of many keys that ask, read and leave at random, and remember what they saw of it."""

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
class Seen:
    """One request as its client saw it. Times are of the monotonic clock."""

    id: str
    key: str
    kind: str
    """`whole`, `stream`, `left` (a stream that the client means to leave), `vectors`."""
    prompt_tokens: int
    max_tokens: int
    began_s: float
    admitted_s: float = 0.0
    """When the answer began: it was admitted before that."""
    ended_s: float = 0.0
    status: int = 0
    """0 if there was no answer."""
    code: str | None = None
    received: int = 0
    """Tokens of the answer."""
    is_complete: bool = False
    has_left: bool = False

    @property
    def is_admitted(self) -> bool:
        """Whether the service has certainly let it in."""
        return self.status == httpx.codes.OK


@dataclass
class Load:
    """Asks for as long as it is told to."""

    service: Service
    keys: dict[str, str]
    """Name → secret."""
    seen: list[Seen] = field(default_factory=list)
    is_over: bool = False

    async def run(self, clients_per_key: int, duration_s: float, seed: int) -> None:
        """Ask with all keys at once."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        timeout = httpx.Timeout(60)
        async with httpx.AsyncClient(limits=limits, timeout=timeout) as client:
            asking = [
                asyncio.create_task(self._ask(client, name, random.Random(f"{seed} {name} {n}")))
                for name in self.keys
                for n in range(clients_per_key)
            ]
            await asyncio.sleep(duration_s)
            self.is_over = True
            await asyncio.gather(*asking)

    async def _ask(self, client: httpx.AsyncClient, name: str, chance: random.Random) -> None:
        while not self.is_over:
            kind = chance.choices(["whole", "stream", "left", "vectors"], [3, 4, 3, 1])[0]
            words = chance.choices(_WORDS, k=chance.randint(1, 12))
            max_tokens = 0 if kind == "vectors" else chance.randint(5, 60)
            seen = Seen(
                uuid.uuid4().hex, name, kind, len(words), max_tokens, began_s=time.monotonic()
            )
            self.seen.append(seen)
            with contextlib.suppress(httpx.HTTPError):  # the replica that answered was killed
                await self._send(client, seen, words, chance)
            seen.ended_s = time.monotonic()
            await asyncio.sleep(chance.uniform(0.05, 0.5))

    async def _send(
        self, client: httpx.AsyncClient, seen: Seen, words: Sequence[str], chance: random.Random
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
                self._note_whole(await response.aread(), seen)
        finally:
            await response.aclose()

    async def _read_stream(
        self, response: httpx.Response, seen: Seen, leave_after: int | None
    ) -> None:
        async for line in response.aiter_lines():
            event = line.removeprefix("data: ")
            if event == "[DONE]":
                seen.is_complete = True
            elif event:
                self._note_chunk(json.loads(event), seen)
            if leave_after is not None and seen.received >= leave_after:
                seen.has_left = not seen.is_complete
                return

    def _note_chunk(self, chunk: dict, seen: Seen) -> None:
        if "error" in chunk:
            seen.code = chunk["error"]["code"]
            return
        for choice in chunk["choices"]:
            seen.received += len(choice["text"].split())

    def _note_whole(self, content: bytes, seen: Seen) -> None:
        if not content.startswith(b"{"):
            assert seen.status >= httpx.codes.INTERNAL_SERVER_ERROR
            seen.code = "no_replica"  # HAProxy's own words while it knows of none
            return
        body = json.loads(content)
        if "error" in body:
            seen.code = body["error"]["code"]
            return
        seen.is_complete = True
        seen.received = body["usage"].get("completion_tokens", 0)
        assert body["usage"]["prompt_tokens"] == seen.prompt_tokens
