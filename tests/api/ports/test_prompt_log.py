"""The prompt log, tested through an endpoint: request and key must both allow it."""

import json
from dataclasses import replace
from typing import Any

import pytest

from api.errors import RateLimitError
from api.ports.tenancy import Key, KeyLimits
from tests.helpers.asgi import Response, request
from tests.helpers.fakes import LLM, SECRET, FakeLimiter, build_app, keys_of

KEY = Key("k0000001", "ann", "acme", may_log_prompts=True)
BODY = {"model": LLM, "prompt": "Once", "log_prompt": True}


class FakePromptLog:
    """A `PromptLog` in memory."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, str, Any]] = []

    def keep(self, request_id: str, model: str, body: bytes) -> None:
        self.kept.append((request_id, model, json.loads(body)))


async def ask(key: Key, log: FakePromptLog | None, body: Any, **services: Any) -> Response:
    app = build_app(keys=keys_of(key), prompt_log=log, **services)
    headers = {"authorization": f"Bearer {SECRET}"}
    return await request(app, "POST", "/v1/completions", json_body=body, headers=headers)


async def test_prompt_is_logged_if_request_and_key_allow_it() -> None:
    log = FakePromptLog()

    response = await ask(KEY, log, BODY)

    assert log.kept == [(response.headers["x-request-id"], LLM, BODY)]
    assert "x-ignored-parameters" not in response.headers


async def test_prompt_is_not_logged_without_log_prompt() -> None:
    log = FakePromptLog()

    await ask(KEY, log, {**BODY, "log_prompt": False})

    assert log.kept == []


async def test_prompt_is_not_logged_if_the_key_forbids_it() -> None:
    log = FakePromptLog()

    response = await ask(replace(KEY, may_log_prompts=False), log, BODY)

    assert log.kept == []
    assert response.headers["x-ignored-parameters"] == "log_prompt"


@pytest.mark.parametrize("may_log_prompts", [True, False])
async def test_without_a_log_log_prompt_is_reported_as_without_effect(
    may_log_prompts: bool,
) -> None:
    response = await ask(replace(KEY, may_log_prompts=may_log_prompts), None, BODY)

    assert response.headers["x-ignored-parameters"] == "log_prompt"


async def test_prompt_of_a_refused_request_is_not_logged() -> None:
    log = FakePromptLog()
    key = replace(KEY, limits=KeyLimits(requests_per_minute=1))

    response = await ask(key, log, BODY, limiter=FakeLimiter(RateLimitError("Full.")))

    assert response.status == 429
    assert log.kept == []
