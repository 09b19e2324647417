from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.types import Message

import api
from api.app import create_app
from api.registry import ModelEntry, Models, Registry, State
from api.services import Services
from api.settings import ColdStart, Limits
from tests.helpers.asgi import Exchange, post, request, to_scope
from tests.helpers.fakes import ENCODER, LLM, PAINTER, FakeEncoder, FakeLlm, FakePainter, build_app

REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": LLM, "messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"model": LLM, "prompt": "Once"},
    "/v1/embeddings": {"model": ENCODER, "input": "Once"},
    "/v1/images/generations": {"model": PAINTER, "prompt": "a dot"},
}
POSTS = pytest.mark.parametrize("path", REQUESTS)
JSON = {"content-type": "application/json"}
NAMES = sorted(
    {"messages", "prompt", "input", "size", "n", "stop", "stream", "stream_options", "temperature"}
    | {"role", "content", "type", "text", "encoding_format", "seed", "max_tokens", "include_usage"}
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
"""Arbitrary JSON, in which names of parameters are frequent."""


def app_in_state(state: State, **services: Any) -> Starlette:
    entries = [
        ModelEntry(LLM, "llm", state, FakeLlm(), 0),
        ModelEntry(ENCODER, "embedding", state, FakeEncoder(), 0),
        ModelEntry(PAINTER, "diffusion", state, FakePainter(), 0),
    ]
    return create_app(Models(Registry(entries)), None, Services(**services))


def test_package_under_test_is_the_one_of_this_repository() -> None:
    assert Path(str(api.__file__)).parents[1] == Path(__file__).parents[2]


@POSTS
async def test_endpoint_returns_200(path: str) -> None:
    response = await request(build_app(), "POST", path, json_body=REQUESTS[path])

    assert response.status == 200
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v2/models",
        "/v1/chat",
        "/v1/chat/completions/",
        "/v1/completions/x",
        "/health/",
        "//health",
        "/health/../v1/models",
        "/v1//models",
        "/docs",
        "/openapi.json",
        "/%00",
        "*",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_unknown_url_returns_404(method: str, path: str) -> None:
    response = await request(build_app(), method, path)

    assert response.error() == (404, "not_found", None)
    assert "location" not in response.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in REQUESTS),
        *(("DELETE", path) for path in REQUESTS),
        ("OPTIONS", "/v1/chat/completions"),
        ("PUT", "/v1/completions"),
        ("POST", "/v1/models"),
        ("DELETE", "/v1/models/llm"),
        ("POST", "/health"),
        ("POST", "/ready"),
        ("BREW", "/health"),
    ],
)
async def test_wrong_method_returns_405(method: str, path: str) -> None:
    response = await request(build_app(), method, path)

    assert response.error() == (405, "method_not_allowed", None)
    assert method in response.message()


@POSTS
@pytest.mark.parametrize("headers", [{}, {"content-type": "text/plain"}])
async def test_body_that_is_not_json_returns_415(path: str, headers: dict[str, str]) -> None:
    response = await request(build_app(), "POST", path, chunks=[b"{}"], headers=headers)

    assert response.error() == (415, "unsupported_media_type", None)


@POSTS
async def test_compressed_body_returns_415(path: str) -> None:
    headers = {**JSON, "content-encoding": "gzip"}

    response = await request(build_app(), "POST", path, chunks=[b"{}"], headers=headers)

    assert response.error() == (415, "unsupported_media_type", None)


@POSTS
async def test_body_declared_too_large_returns_413(path: str) -> None:
    headers = {**JSON, "content-length": str(8 * 1024 * 1024 + 1)}

    response = await request(build_app(), "POST", path, chunks=[b"{}"], headers=headers)

    assert response.error() == (413, "payload_too_large", None)


@POSTS
async def test_body_counted_too_large_returns_413(path: str) -> None:
    app = build_app(limits=Limits(max_body_bytes=1024))

    response = await request(app, "POST", path, chunks=[b"x" * 600] * 2, headers=JSON)

    assert response.error() == (413, "payload_too_large", None)


@POSTS
async def test_slow_body_returns_408(path: str) -> None:
    app = build_app(limits=Limits(body_timeout_s=0.01))
    async with Exchange(app, "POST", path, headers=JSON, chunks=None) as exchange:
        exchange.send_chunk(b"{", more=True)
        response = await exchange.end()

    assert response.error() == (408, "request_timeout", None)


@POSTS
async def test_disconnect_during_the_body_sends_nothing(path: str) -> None:
    async with Exchange(build_app(), "POST", path, headers=JSON, chunks=None) as exchange:
        exchange.send_chunk(b"{", more=True)
        exchange.disconnect()
        response = await exchange.end()

    assert response.messages == []


@POSTS
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b'{"model": "\xff"}',
        b'{"model": NaN}',
        b'{"model": "\\ud800"}',
        b"[" * 40_000,
    ],
    ids=lambda body: repr(body[:20]),
)
async def test_malformed_body_returns_400(path: str, body: bytes) -> None:
    response = await request(build_app(), "POST", path, chunks=[body], headers=JSON)

    assert response.error() == (400, "invalid_json", None)


@POSTS
async def test_unknown_parameter_returns_400(path: str) -> None:
    body = {**REQUESTS[path], "colour": "red"}

    response = await request(build_app(), "POST", path, json_body=body)

    assert response.error() == (400, "unknown_parameter", "colour")


@POSTS
async def test_missing_model_returns_400(path: str) -> None:
    body = {**REQUESTS[path], "model": None}

    response = await request(build_app(), "POST", path, json_body=body)

    assert response.error() == (400, "missing_required_parameter", "model")


@POSTS
async def test_starting_model_returns_503_with_retry_after(path: str) -> None:
    app = app_in_state("starting", cold_start=ColdStart(whole_wait_s=0))

    response = await request(app, "POST", path, json_body=REQUESTS[path])

    assert response.error() == (503, "model_starting", None)
    assert response.headers["retry-after"] == "5"


@POSTS
async def test_failed_model_returns_503_without_retry(path: str) -> None:
    response = await request(app_in_state("failed"), "POST", path, json_body=REQUESTS[path])

    assert response.error() == (503, "model_unavailable", "model")
    assert response.headers["x-should-retry"] == "false"


@POSTS
async def test_idle_model_returns_200(path: str) -> None:
    response = await request(app_in_state("idle"), "POST", path, json_body=REQUESTS[path])

    assert response.status == 200


@POSTS
@given(members=st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), VALUES, max_size=3))
@settings(max_examples=50)
async def test_arbitrary_json_returns_200_or_400(path: str, members: dict[str, Any]) -> None:
    response = await request(build_app(), "POST", path, json_body={**REQUESTS[path], **members})

    assert response.status in (200, 400)
    assert response.status == 200 or response.error()


@POSTS
@given(body=st.binary(max_size=200))
@settings(max_examples=50)
async def test_arbitrary_bytes_return_400(path: str, body: bytes) -> None:
    response = await request(build_app(), "POST", path, chunks=[body], headers=JSON)

    assert response.error()[0] == 400


async def test_unexpected_error_of_a_backend_is_a_plain_500() -> None:
    app = build_app(encoder=FakeEncoder(error=KeyError("/srv/secret")))

    response = await request(app, "POST", "/v1/embeddings", json_body=REQUESTS["/v1/embeddings"])

    assert response.error() == (500, "internal_error", None)
    assert b"secret" not in response.body


async def test_request_under_way_keeps_its_model_when_the_models_change() -> None:
    llm = FakeLlm(held=True)
    models = Models(Registry([ModelEntry(LLM, "llm", "ready", llm, 0)]))
    app = create_app(models, None, Services())
    body = REQUESTS["/v1/completions"]
    async with post(app, "/v1/completions", body) as exchange:
        await llm.gate.waiting.wait()
        models.swap(Registry())
        llm.gate.release()
        under_way = await exchange.end()
    later = await request(app, "POST", "/v1/completions", json_body=body)

    assert under_way.status == 200
    assert later.error() == (404, "model_not_found", "model")


async def test_added_model_serves_the_next_request() -> None:
    models = Models(Registry())
    app = create_app(models, None, Services())

    models.swap(Registry([ModelEntry(LLM, "llm", "ready", FakeLlm(), 0)]))
    response = await request(app, "POST", "/v1/completions", json_body=REQUESTS["/v1/completions"])

    assert response.status == 200


async def test_request_id_header_is_left_to_the_server_if_configured() -> None:
    app = create_app(Models(Registry()), None, Services(), is_request_id_echoed=True)

    response = await request(app, "GET", "/v1/models")

    assert "x-request-id" not in response.headers


async def test_websocket_is_refused() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {**to_scope("GET", "/v1/models", {}), "type": "websocket", "subprotocols": []}
    await build_app()(scope, receive, send)

    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_lifespan_runs_around_the_application() -> None:
    events = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        events.append("up")
        yield
        events.append("down")

    app = create_app(Models(), None, Services(), lifespan=lifespan)
    async with app.router.lifespan_context(app):
        assert events == ["up"]

    assert events == ["up", "down"]
