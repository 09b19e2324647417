import pytest
from starlette.applications import Starlette

from api.app import create_app
from api.registry import ModelEntry, Models, Registry
from api.services import Services
from tests.helpers.asgi import request
from tests.helpers.fakes import (
    DEPLOYED_AT_S,
    ENCODER,
    LLM,
    PAINTER,
    FakeLlm,
    build_app,
    build_models,
)


def app_with(*model_ids: str) -> Starlette:
    entries = [ModelEntry(each, "llm", "failed", FakeLlm(), 0) for each in model_ids]
    return create_app(Models(Registry(entries)), None, Services())


async def test_list_has_all_models_in_order() -> None:
    response = await request(build_app(), "GET", "/v1/models")

    assert response.status == 200
    assert response.json() == {
        "object": "list",
        "data": [
            {
                "id": each,
                "object": "model",
                "created": DEPLOYED_AT_S,
                "owned_by": "triptych",
                "triptych": {"kind": kind},
            }
            for each, kind in ((LLM, "llm"), (ENCODER, "embedding"), (PAINTER, "diffusion"))
        ],
    }


async def test_list_has_models_that_are_not_ready() -> None:
    response = await request(app_with("a"), "GET", "/v1/models")

    assert [card["id"] for card in response.json()["data"]] == ["a"]


async def test_list_may_be_empty() -> None:
    response = await request(app_with(), "GET", "/v1/models")

    assert response.json() == {"object": "list", "data": []}


async def test_single_model_is_its_card() -> None:
    response = await request(build_app(), "GET", f"/v1/models/{LLM}")

    assert response.json() == {
        "id": LLM,
        "object": "model",
        "created": DEPLOYED_AT_S,
        "owned_by": "triptych",
        "triptych": {"kind": "llm"},
    }


async def test_card_has_the_capabilities_of_its_model() -> None:
    entry = ModelEntry("a", "llm", "ready", FakeLlm(), 0, capabilities={"max_tokens": 512})
    app = create_app(Models(Registry([entry])), None, Services())

    response = await request(app, "GET", "/v1/models/a")

    assert response.json()["triptych"] == {"kind": "llm", "max_tokens": 512}


@pytest.mark.parametrize(
    ("path", "model_id"),
    [
        ("org/a", "org/a"),
        ("org%2Fa", "org/a"),
        ("org/a/b/c", "org/a/b/c"),
        ("a:b@1", "a:b@1"),
        ("a.b-c_d+e", "a.b-c_d+e"),
        ("%C3%A9", "é"),
    ],
)
async def test_id_may_contain_slashes_and_unusual_characters(path: str, model_id: str) -> None:
    response = await request(app_with(model_id), "GET", f"/v1/models/{path}")

    assert response.json()["id"] == model_id


@pytest.mark.parametrize("path", ["", "b", "a/", "org", "org/", "ORG/A", "%20"])
async def test_unknown_id_returns_404(path: str) -> None:
    response = await request(app_with("a", "org/a"), "GET", f"/v1/models/{path}")

    assert response.error() == (404, "model_not_found", "model")


async def test_list_changes_with_the_models() -> None:
    models = build_models()
    app = create_app(models, None, Services())

    models.swap(Registry([ModelEntry("new", "llm", "ready", FakeLlm(), 0)]))
    listed = await request(app, "GET", "/v1/models")
    removed = await request(app, "GET", f"/v1/models/{LLM}")

    assert [card["id"] for card in listed.json()["data"]] == ["new"]
    assert removed.status == 404
