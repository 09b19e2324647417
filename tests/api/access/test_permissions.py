"""The scopes and models of keys, tested through every endpoint."""

import json
from dataclasses import replace
from typing import Any

import pytest

from api.ports.tenancy import MODEL_SCOPES, SCOPES, Key, Scope
from tests.helpers.asgi import Response, request
from tests.helpers.fakes import (
    ENCODER,
    LLM,
    PAINTER,
    SECRET,
    FakeAdministration,
    build_app,
    keys_of,
)

KEY = Key("k0000001", "ann", "acme", scopes=frozenset(SCOPES))
CALLS: dict[str, tuple[Scope, dict[str, Any]]] = {
    "/v1/chat/completions": (
        "chat",
        {"model": LLM, "messages": [{"role": "user", "content": "Hi"}]},
    ),
    "/v1/completions": ("chat", {"model": LLM, "prompt": "Once"}),
    "/v1/embeddings": ("embeddings", {"model": ENCODER, "input": "Once"}),
    "/v1/rerank": ("embeddings", {"model": ENCODER, "query": "a", "documents": ["b"]}),
    "/v1/score": ("embeddings", {"model": ENCODER, "text_1": "a", "text_2": "b"}),
    "/v1/images/generations": ("images", {"model": PAINTER, "prompt": "a dot"}),
}
POSTS = pytest.mark.parametrize("path", CALLS)


async def ask(key: Key, method: str, path: str, body: Any = None) -> Response:
    app = build_app(keys=keys_of(key), administration=FakeAdministration())
    headers = {"authorization": f"Bearer {SECRET}"}
    return await request(app, method, path, json_body=body, headers=headers)


@POSTS
async def test_key_with_the_scope_of_the_endpoint_returns_200(path: str) -> None:
    scope, body = CALLS[path]

    response = await ask(replace(KEY, scopes=frozenset({scope})), "POST", path, body)

    assert response.status == 200


@POSTS
async def test_key_with_all_other_scopes_returns_403(path: str) -> None:
    scope, body = CALLS[path]

    response = await ask(replace(KEY, scopes=frozenset(SCOPES) - {scope}), "POST", path, body)

    assert response.error() == (403, "insufficient_permissions", None)
    assert f"'{scope}'" in response.message()


@pytest.mark.parametrize("scope", SCOPES)
async def test_key_with_any_scope_lists_models(scope: Scope) -> None:
    response = await ask(replace(KEY, scopes=frozenset({scope})), "GET", "/v1/models")

    assert len(response.json()["data"]) == 3


ADMINISTRATION = [
    ("GET", "/v1/keys"),
    ("POST", "/v1/keys"),
    ("GET", "/v1/keys/k0000001"),
    ("POST", "/v1/keys/k0000001"),
    ("DELETE", "/v1/keys/k0000001"),
    ("POST", "/v1/keys/k0000001/rotate"),
]


@pytest.mark.parametrize(("method", "path"), ADMINISTRATION)
async def test_key_without_admin_scope_cannot_administer_keys(method: str, path: str) -> None:
    """Not even its own key, and whether or not the key exists."""
    response = await ask(replace(KEY, scopes=MODEL_SCOPES), method, path)

    assert response.error() == (403, "insufficient_permissions", None)
    assert "'admin'" in response.message()


@pytest.mark.parametrize(("method", "path"), [*ADMINISTRATION, ("GET", "/v1/usage")])
async def test_without_administration_its_urls_return_404(method: str, path: str) -> None:
    response = await request(build_app(), method, path)

    assert response.error() == (404, "not_found", None)


@pytest.mark.parametrize(("method", "path"), ADMINISTRATION)
async def test_without_authentication_administration_returns_403(method: str, path: str) -> None:
    app = build_app(administration=FakeAdministration())

    assert (await request(app, method, path)).status == 403


@POSTS
@pytest.mark.parametrize("model", [LLM, ENCODER, PAINTER])
async def test_model_that_is_not_allowed_looks_like_an_unknown_one(path: str, model: str) -> None:
    """Also a model of another kind: the response differs in the name only."""
    _, body = CALLS[path]
    key = replace(KEY, models=("else",))

    refused = await ask(key, "POST", path, {**body, "model": model})
    unknown = await ask(key, "POST", path, {**body, "model": "absent"})

    assert refused.error() == (404, "model_not_found", "model")
    assert refused.body == unknown.body.replace(b"absent", model.encode())


@POSTS
async def test_model_that_is_allowed_returns_200(path: str) -> None:
    _, body = CALLS[path]

    response = await ask(replace(KEY, models=(body["model"][:3] + "*",)), "POST", path, body)

    assert response.status == 200


async def test_key_lists_its_own_models_only() -> None:
    key = replace(KEY, models=("org/*", "paint*"))

    listed = await ask(key, "GET", "/v1/models")
    shown = await ask(key, "GET", f"/v1/models/{PAINTER}")
    hidden = await ask(key, "GET", f"/v1/models/{LLM}")
    unknown = await ask(key, "GET", "/v1/models/absent")

    assert [card["id"] for card in listed.json()["data"]] == [ENCODER, PAINTER]
    assert shown.json()["id"] == PAINTER
    assert hidden.error() == (404, "model_not_found", "model")
    assert json.loads(hidden.body) == json.loads(unknown.body.replace(b"absent", LLM.encode()))
