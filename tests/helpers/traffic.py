"""Clients of a service that changes: streams, whole answers, vectors and images, all the time."""

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from tests.helpers.service import sse_events

STREAM_TOKENS = 160
STREAMS = 6
SHORT_TOKENS = 3
PROMPT = "one two three"
_CONNECT_TRIES = 5
"""A client whose connection is refused or closed before it has sent anything tries again, as
OpenAI's SDKs do."""

TEXT_AND_VECTORS: Mapping[str, Any] = {
    "completions": {"model": "echo", "prompt": PROMPT, "max_tokens": SHORT_TOKENS},
    "embeddings": {"model": "vectors", "input": PROMPT},
}
"""Path → body of short requests."""


@dataclass
class Answer:
    """How one request went."""

    kind: str
    id: str
    began_s: float
    ended_s: float = 0.0
    tokens: int = 0
    failure: str | None = "it has not ended"
    """Why it did not succeed; None if it did."""

    def describe(self, zero_s: float) -> str:
        """Say when it failed, in seconds from a time, and how."""
        when = f"{self.began_s - zero_s:.1f} to {self.ended_s - zero_s:.1f} s"
        return f"{self.kind}, {when}, {self.tokens} tokens: {self.failure}"


class Traffic:
    """Sends until cancelled, and keeps what came of it."""

    def __init__(
        self,
        url: str,
        key: str,
        short: Mapping[str, Any] = TEXT_AND_VECTORS,
        *,
        streams: int = STREAMS,
        stream_tokens: int = STREAM_TOKENS,
        pause_s: float = 0.5,
    ) -> None:
        """Send to an address, with a key.

        Args:
            url: without a path.
            key: for all requests.
            short: path → body of short requests.
            streams: how many streams are open at once.
            stream_tokens: tokens of each stream.
            pause_s: between two short requests of a client.
        """
        self.answers: list[Answer] = []
        self._url, self._key, self._short = url, key, short
        self._streams, self._stream_tokens, self._pause_s = streams, stream_tokens, pause_s

    @property
    def open_streams(self) -> int:
        """Streams that have begun and not ended."""
        return sum(1 for each in self.answers if each.kind == "stream" and not each.ended_s)

    def since(self, began_s: float) -> list[Answer]:
        """The requests that were open at a time, or began after it, and have ended."""
        return [each for each in self.answers if each.ended_s >= began_s]

    async def run(self) -> None:
        """Run all clients. Half of the short requests keep their connection as long as they can."""
        headers = {"authorization": f"Bearer {self._key}"}
        lasting = httpx.Limits(keepalive_expiry=600)
        async with (
            httpx.AsyncClient(headers=headers, timeout=60, limits=lasting) as client,
            asyncio.TaskGroup() as group,
        ):
            for place in range(self._streams):
                group.create_task(self._stream_for_ever(client, place))
            for path, body in self._short.items():
                group.create_task(self._ask_for_ever(client, path, body, {}))
                closing = {"connection": "close"}
                group.create_task(self._ask_for_ever(client, path, body, closing))

    async def _stream_for_ever(self, client: httpx.AsyncClient, place: int) -> None:
        await asyncio.sleep(place)  # not all at once: at any time one of them is beginning
        tokens = self._stream_tokens
        body = {"model": "echo", "prompt": PROMPT, "max_tokens": tokens, "stream": True}
        while True:
            answer = await self._record("stream", lambda answer: self._read(client, body, answer))
            await asyncio.sleep(1 if answer.failure else 0)

    async def _ask_for_ever(
        self, client: httpx.AsyncClient, path: str, body: Any, headers: dict[str, str]
    ) -> None:
        while True:
            await self._record(path, lambda answer: self._ask(client, path, body, headers, answer))
            await asyncio.sleep(self._pause_s)

    async def _record(self, kind: str, send: Callable[[Answer], Any]) -> Answer:
        answer = Answer(kind, uuid.uuid4().hex, time.monotonic())
        self.answers.append(answer)
        for _ in range(_CONNECT_TRIES):
            try:
                answer.failure = await send(answer)
            except httpx.ConnectError:
                answer.failure = "refused"
                await asyncio.sleep(0.5)
            except httpx.TransportError as error:
                answer.failure = f"cut: {error!r}"
                break
            else:
                break
        answer.ended_s = time.monotonic()
        return answer

    async def _read(self, client: httpx.AsyncClient, body: Any, answer: Answer) -> str | None:
        url = f"{self._url}/v1/completions"
        headers = {"connection": "close", "x-request-id": answer.id}
        async with client.stream("POST", url, json=body, headers=headers) as got:
            if got.status_code != httpx.codes.OK:
                await got.aread()
                return _describe(got)
            async for line in got.aiter_lines():
                for event in sse_events(iter([line])):
                    if event == "[DONE]":
                        is_complete = answer.tokens == self._stream_tokens
                        return None if is_complete else "tokens are missing"
                    content = json.loads(event)
                    if "error" in content:
                        return str(content["error"]["code"])
                    answer.tokens += sum(len(each["text"].split()) for each in content["choices"])
        return "no [DONE]"

    async def _ask(
        self,
        client: httpx.AsyncClient,
        path: str,
        body: Any,
        headers: dict[str, str],
        answer: Answer,
    ) -> str | None:
        headers = {**headers, "x-request-id": answer.id}
        got = await client.post(f"{self._url}/v1/{path}", json=body, headers=headers)
        if got.status_code != httpx.codes.OK:
            return _describe(got)
        usage = got.json()["usage"]
        answer.tokens = usage.get("completion_tokens", usage.get("output_tokens", 0))  # images
        return None


def _describe(got: httpx.Response) -> str:
    """Name the error's code, as every error of the service must have one, and a hint to retry."""
    try:
        error = json.loads(got.content)["error"]
        line = f"{error['code']}: {got.status_code} {error['message']}"
    except (ValueError, LookupError, TypeError):
        return f"not an OpenAI error: {got.status_code} {got.content[:100]!r}"
    has_hint = got.headers.keys() & {"retry-after", "x-should-retry"}
    needs_hint = got.status_code == httpx.codes.SERVICE_UNAVAILABLE
    return f"no hint to retry: {line}" if needs_hint and not has_hint else line
