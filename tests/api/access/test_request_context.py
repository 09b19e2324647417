from typing import Any

import pytest

from api.ports.tenancy import Key, KeyLimits, RequestContext
from tests.helpers.asgi import request
from tests.helpers.fakes import (
    ENCODER,
    LLM,
    PAINTER,
    SECRET,
    FakeEncoder,
    FakeLlm,
    FakePainter,
    build_app,
    keys_of,
)

KEY = Key("k0000001", "ann", "acme", limits=KeyLimits(tokens_per_day=9), priority="high")
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", {"model": LLM, "messages": "Hi"}),
    ("completions", {"model": LLM, "prompt": "Once"}),
    ("embeddings", {"model": ENCODER, "input": "Once"}),
    ("rerank", {"model": ENCODER, "query": "a", "documents": ["b"]}),
    ("score", {"model": ENCODER, "text_1": "a", "text_2": "b"}),
    ("images/generations", {"model": PAINTER, "prompt": "a dot"}),
]
ALL = pytest.mark.parametrize(("endpoint", "body"), CALLS)


async def context_of(endpoint: str, body: dict[str, Any], **services: Any) -> RequestContext:
    """Send a request and return the context that its model received."""
    llm, encoder, painter = FakeLlm(), FakeEncoder(), FakePainter()
    app = build_app(llm, encoder, painter, keys=keys_of(KEY), **services)
    headers = {"authorization": f"Bearer {SECRET}"}
    await request(app, "POST", f"/v1/{endpoint}", json_body=body, headers=headers)
    (received,) = [*llm.generations, *encoder.requests, *encoder.scored, *painter.requests]
    return received.context


@ALL
async def test_context_of_a_request_reaches_the_model(endpoint: str, body: Any) -> None:
    context = await context_of(
        endpoint, {**body, "user": "bob"}, cache_salt=lambda tenant: f"<{tenant}>"
    )

    assert context == RequestContext(
        key_id="k0000001",
        tenant="acme",
        priority="high",
        has_token_limits=True,
        cache_salt="<acme>",
        user="bob",
        endpoint=endpoint,
        model=body["model"],
        usage_id=context.usage_id,
    )


@ALL
async def test_each_request_has_a_usage_id_of_its_own(endpoint: str, body: Any) -> None:
    ids = {(await context_of(endpoint, body)).usage_id for _ in range(2)}

    assert len(ids) == 2
    assert "" not in ids


@ALL
async def test_bare_request_has_no_user_and_no_salt(endpoint: str, body: Any) -> None:
    context = await context_of(endpoint, body)

    assert (context.user, context.cache_salt, context.is_streamed) == (None, None, False)


@pytest.mark.parametrize(("endpoint", "body"), CALLS[:2])
async def test_context_of_a_stream_says_so(endpoint: str, body: Any) -> None:
    assert (await context_of(endpoint, {**body, "stream": True})).is_streamed


@ALL
@pytest.mark.parametrize(
    ("user", "kept"),
    [("x" * 1000, "x" * 256), ("", None), ("\0", None), ("a\0b", "ab"), ("é😀", "é😀")],
)
async def test_user_is_clipped_and_without_nul(
    endpoint: str, body: Any, user: str, kept: str | None
) -> None:
    assert (await context_of(endpoint, {**body, "user": user})).user == kept
