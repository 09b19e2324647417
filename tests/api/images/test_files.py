import base64
from typing import Any

import pytest

from api.ports.tenancy import Key
from tests.helpers.asgi import Response, request
from tests.helpers.fakes import PAINTER, SECRET, FakeImageStore, build_app, keys_of

URL = "/v1/images/generations"
BODY = {"model": PAINTER, "prompt": "a dot", "response_format": "url"}
NAME = "0" * 22 + ".png"


async def ask(store: FakeImageStore, **members: Any) -> Response:
    app = build_app(image_store=store)
    return await request(app, "POST", URL, json_body={**BODY, **members})


async def test_url_returns_the_image() -> None:
    store = FakeImageStore()

    (item,) = (await ask(store)).json()["data"]
    path = item["url"].removeprefix("http://127.0.0.1:8000")
    response = await request(build_app(image_store=store), "GET", path)

    assert item["b64_json"] is None
    assert response.status == 200
    assert response.body == b"image 0"
    assert response.headers["content-type"] == "image/png"


async def test_url_starts_with_the_configured_base() -> None:
    response = await ask(FakeImageStore("https://images.example/"), output_format="webp")

    (item,) = response.json()["data"]
    assert item["url"] == f"https://images.example/v1/images/files/{'0' * 22}.webp"


async def test_base64_is_still_the_default() -> None:
    response = await ask(FakeImageStore(), response_format="b64_json")

    (item,) = response.json()["data"]
    assert base64.b64decode(item["b64_json"]) == b"image 0"
    assert item["url"] is None


async def test_url_for_a_stream_returns_400() -> None:
    response = await ask(FakeImageStore(), stream=True)

    assert response.error() == (400, "invalid_value", "response_format")


async def test_file_needs_no_key() -> None:
    store = FakeImageStore()
    store.files[NAME] = b"an image"
    app = build_app(image_store=store, keys=keys_of(Key("k", "k", "t")))

    response = await request(app, "GET", f"/v1/images/files/{NAME}")

    assert (response.status, response.body) == (200, b"an image")


@pytest.mark.parametrize(
    "name", ["short.png", f"{'0' * 22}.gif", f"{'0' * 22}.png.png", "%2e%2e", f"{'0' * 22}.png%0a"]
)
async def test_path_that_is_not_a_file_name_needs_a_key(name: str) -> None:
    app = build_app(image_store=FakeImageStore(), keys=keys_of(Key("k", "k", "t")))

    response = await request(app, "GET", f"/v1/images/files/{name}")

    assert response.status == 401


@pytest.mark.parametrize("name", ["short.png", NAME])
async def test_unknown_file_returns_404(name: str) -> None:
    app = build_app(image_store=FakeImageStore(), keys=keys_of(Key("k", "k", "t")))
    headers = {"authorization": f"Bearer {SECRET}"}

    response = await request(app, "GET", f"/v1/images/files/{name}", headers=headers)

    assert response.error() == (404, "not_found", None)


async def test_without_a_store_the_url_returns_404() -> None:
    response = await request(build_app(), "GET", f"/v1/images/files/{NAME}")

    assert response.error() == (404, "not_found", None)
