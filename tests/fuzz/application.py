"""The real application over fakes, and a check that a request has left nothing behind."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from api.ports.tenancy import SCOPES, Key, KeyLimits
from api.settings import Policy
from tests.helpers.asgi import Exchange, Response, check_error
from tests.helpers.fakes import (
    SECRET,
    FakeAdministration,
    FakeEncoder,
    FakeImageStore,
    FakeLimiter,
    FakeLlm,
    FakePainter,
    build_app,
    keys_of,
)

KEY = Key(
    "k",
    "k",
    "t",
    scopes=frozenset(SCOPES),
    limits=KeyLimits(requests_per_minute=9),
    may_log_prompts=True,
)
BEARER = {"authorization": f"Bearer {SECRET}"}
JSON = {"content-type": "application/json", **BEARER}

_STRICT = Policy()
_LOOP_S = 2.0
"""CPU time for one small request; what is well takes a few milliseconds."""


class Application:
    """One application whose fakes are looked at after each request."""

    def __init__(self, policy: Policy = _STRICT) -> None:
        self.runner = asyncio.Runner()
        self.llm, self.painter = FakeLlm(), FakePainter()
        self.limiter, self.store = FakeLimiter(), FakeImageStore()
        self.administration = FakeAdministration()
        self.statuses: Counter[int] = Counter()
        self.app = build_app(
            self.llm,
            FakeEncoder(),
            self.painter,
            keys=keys_of(KEY),
            administration=self.administration,
            limiter=self.limiter,
            image_store=self.store,
            policy=policy,
        )

    def close(self) -> None:
        self.runner.close()

    def send(
        self,
        method: str,
        path: str,
        body: bytes | Sequence[bytes] = b"",
        headers: Mapping[str, str] = JSON,
    ) -> Response:
        """Send a request, and check the answer and what it has left."""
        chunks = [body] if isinstance(body, bytes) else body
        began_s = time.process_time()
        response = self.runner.run(self._exchange(method, path, chunks, headers))
        assert time.process_time() - began_s < _LOOP_S
        check_response(response)
        self.statuses[response.status] += 1
        return response

    def send_json(self, path: str, value: Any) -> Response:
        return self.send("POST", path, json.dumps(value).encode())

    async def _exchange(
        self, method: str, path: str, chunks: Sequence[bytes], headers: Mapping[str, str]
    ) -> Response:
        async with Exchange(self.app, method, path, headers=headers, chunks=chunks) as exchange:
            response = await exchange.end()
        assert asyncio.all_tasks() - {asyncio.current_task()} == set()
        self._check_nothing_is_left()
        return response

    def _check_nothing_is_left(self) -> None:
        assert all(len(released) == 1 for released in self.limiter.released)
        assert all(stream.is_closed for stream in [*self.llm.streams, *self.painter.streams])
        self.limiter.admissions.clear()
        self.llm.streams.clear()
        self.painter.streams.clear()
        for later in list(self.administration.keys)[1:]:
            del self.administration.keys[later]


def check_response(response: Response) -> None:
    """Check that an answer is whole, is no 5xx, and that an error is in OpenAI's form."""
    assert response.is_ended
    assert response.status < 500
    assert response.headers["x-request-id"]
    if response.status >= 400:
        response.error()
    elif response.headers["content-type"].startswith("text/event-stream"):
        _check_events(response.body)
    elif response.headers["content-type"] == "application/json":
        response.json()


def _check_events(body: bytes) -> None:
    """Check that each event is comments, or at most a name and one line of JSON."""
    text = body.decode("ascii")
    assert text.endswith("\n\n")
    for event in text.removesuffix("\n\n").split("\n\n"):
        lines = [line for line in event.split("\n") if not line.startswith(":")]
        data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        names = [line for line in lines if line.startswith("event: ")]
        assert len(lines) == len(data) + len(names)
        assert len(data) == bool(lines)
        assert len(names) <= 1
        for payload in data:
            _check_payload(payload)


def _check_payload(payload: str) -> None:
    value = None if payload == "[DONE]" else json.loads(payload)
    if isinstance(value, dict) and value.get("error"):
        check_error(value["error"])
