"""The limits of keys, tested through every endpoint: a permit is released exactly once."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from starlette.applications import Starlette

from api.errors import EngineError, InsufficientQuotaError, RateLimitError
from api.ports.tenancy import Key, KeyLimits
from tests.helpers.asgi import Exchange, request
from tests.helpers.fakes import (
    ENCODER,
    HELLO,
    LLM,
    PAINTER,
    SECRET,
    FakeEncoder,
    FakeLimiter,
    FakeLlm,
    FakePainter,
    build_app,
    keys_of,
)

KEY = Key("k0000001", "ann", "acme", limits=KeyLimits(requests_per_minute=9))
CHAT = {"model": LLM, "messages": [{"role": "user", "content": "Hi"}]}
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "chat stream": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "completions": ("/v1/completions", {"model": LLM, "prompt": "Once"}),
    "embeddings": ("/v1/embeddings", {"model": ENCODER, "input": "Once"}),
    "rerank": ("/v1/rerank", {"model": ENCODER, "query": "a", "documents": ["b"]}),
    "score": ("/v1/score", {"model": ENCODER, "text_1": "a", "text_2": "b"}),
    "images": ("/v1/images/generations", {"model": PAINTER, "prompt": "a dot", "n": 3}),
}
ALL = pytest.mark.parametrize(("path", "body"), CALLS.values(), ids=CALLS)
AUTHORIZED = {"authorization": f"Bearer {SECRET}", "content-type": "application/json"}


class Service:
    """The application, its limiter, and models that all fail or all wait."""

    def __init__(
        self,
        key: Key = KEY,
        *,
        error: Exception | None = None,
        held: bool = False,
        refusal: Exception | None = None,
    ) -> None:
        self.limiter = FakeLimiter(refusal)
        self.llm = FakeLlm(HELLO if error is None else [], error=error, held=held)
        self.encoder = FakeEncoder(error=error, held=held)
        self.painter = FakePainter(error=error, held=held)
        self.app: Starlette = build_app(
            self.llm, self.encoder, self.painter, keys=keys_of(key), limiter=self.limiter
        )
        self.ask: Callable[[str, Any], Any] = lambda path, body: request(
            self.app, "POST", path, json_body=body, headers=AUTHORIZED
        )

    async def working(self) -> None:
        """Wait until one of the models has been called."""
        waits = [
            asyncio.create_task(model.gate.waiting.wait())
            for model in (self.llm, self.encoder, self.painter)
        ]
        _, others = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in others:
            wait.cancel()


def to_images(body: dict[str, Any]) -> int:
    return int(body.get("n", 0))


@ALL
async def test_success_has_rate_limit_headers(path: str, body: Any) -> None:
    response = await Service().ask(path, body)

    assert response.status == 200
    assert response.headers["x-ratelimit-limit-requests"] == "9"


@ALL
async def test_success_releases_the_permit_and_counts_its_images(path: str, body: Any) -> None:
    service = Service()

    await service.ask(path, body)

    assert service.limiter.calls == [(KEY, to_images(body))]
    assert service.limiter.released == [[to_images(body)]]
    assert (service.limiter.pixel_steps[0] > 0) == (to_images(body) > 0)


@ALL
@pytest.mark.parametrize(
    "error",
    [EngineError("It broke."), RateLimitError("No tokens left."), RuntimeError("It broke.")],
)
async def test_failure_releases_the_permit_and_all_images(
    path: str, body: Any, error: Exception
) -> None:
    service = Service(error=error)

    response = await service.ask(path, body)

    assert response.status in (429, 500)
    assert service.limiter.released == [[0]]


@ALL
async def test_disconnect_releases_the_permit_and_all_images(path: str, body: Any) -> None:
    service = Service(held=True)
    chunks = [json.dumps(body).encode()]
    async with Exchange(service.app, "POST", path, headers=AUTHORIZED, chunks=chunks) as exchange:
        await service.working()
        before = [list(each) for each in service.limiter.released]
        exchange.disconnect()
        await exchange.end()

    assert before == [[]]
    assert service.limiter.released == [[0]]


@ALL
async def test_shutdown_releases_the_permit_and_all_images(path: str, body: Any) -> None:
    service = Service(held=True)
    asking = asyncio.create_task(service.ask(path, body))
    await service.working()

    asking.cancel()
    await asyncio.wait({asking})

    assert service.limiter.released == [[0]]


@ALL
@pytest.mark.parametrize("refusal", [RateLimitError("Full."), InsufficientQuotaError("Used up.")])
async def test_refused_request_reaches_no_model(
    path: str, body: Any, refusal: RateLimitError
) -> None:
    service = Service(refusal=refusal)

    response = await service.ask(path, body)

    assert response.error() == (429, refusal.code, None)
    assert not service.llm.generations
    assert not service.encoder.requests
    assert not service.painter.requests


@ALL
async def test_key_without_limits_needs_no_permit(path: str, body: Any) -> None:
    service = Service(replace(KEY, limits=KeyLimits()))

    response = await service.ask(path, body)

    assert response.status == 200
    assert service.limiter.calls == []
    assert "x-ratelimit-limit-requests" not in response.headers


@ALL
@pytest.mark.parametrize("change", [{"model": "absent"}, {"colour": "red"}])
async def test_request_with_an_invalid_parameter_takes_no_permit(
    path: str, body: Any, change: Any
) -> None:
    service = Service()

    response = await service.ask(path, {**body, **change})

    assert response.status in (400, 404)
    assert service.limiter.calls == []


INVALID_TOGETHER: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {**CHAT, "stream_options": {}}),
    "chat with a bad image": (
        "/v1/chat/completions",
        {
            **CHAT,
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x:"}}]}
            ],
        },
    ),
    "completions": ("/v1/completions", {"model": LLM, "prompt": "a", "max_tokens": 0}),
    "embeddings": ("/v1/embeddings", {"model": ENCODER, "input": ["a"] * 2049}),
    "rerank": ("/v1/rerank", {"model": ENCODER, "query": "a", "documents": ["b"] * 2049}),
    "score": ("/v1/score", {"model": ENCODER, "text_1": ["a", "b"], "text_2": ["c"]}),
    "images": ("/v1/images/generations", {"model": PAINTER, "prompt": "a", "n": 11}),
}


@pytest.mark.parametrize(("path", "body"), INVALID_TOGETHER.values(), ids=list(INVALID_TOGETHER))
async def test_request_that_is_invalid_as_a_whole_takes_no_permit(path: str, body: Any) -> None:
    service = Service()

    response = await service.ask(path, body)

    assert response.status == 400
    assert service.limiter.calls == []
