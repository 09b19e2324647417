import base64
from dataclasses import replace
from typing import Any

import pytest

from api.backends import ImageRequest
from api.errors import InvalidRequest
from api.limits import Limits
from api.tenancy import Origin
from tests.asgi import Response, post, request
from tests.fakes import ENCODER, LLM, PAINTER, FakePainter, build_app

URL = "/v1/images/generations"
BODY = {"model": PAINTER, "prompt": "a dot"}
ORIGIN = Origin("anonymous", "default", endpoint="images/generations", model=PAINTER)


async def ask(painter: FakePainter | None = None, **members: Any) -> Response:
    return await request(build_app(painter=painter), "POST", URL, json_body={**BODY, **members})


async def test_answer_is_an_images_response() -> None:
    response = await ask()

    value = response.json()
    assert value.pop("created") > 1_700_000_000
    assert value == {
        "data": [
            {
                "b64_json": base64.b64encode(b"picture 0").decode(),
                "url": None,
                "revised_prompt": None,
                "seed": 0,
            }
        ],
        "size": "64x48",
        "output_format": "png",
        "usage": {
            "input_tokens": 6,
            "input_tokens_details": {"text_tokens": 6, "image_tokens": 0},
            "output_tokens": 1,
            "total_tokens": 7,
        },
    }


async def test_n_images_come_with_n_seeds() -> None:
    response = await ask(n=3, seed=7)

    assert [
        (base64.b64decode(image["b64_json"]), image["seed"]) for image in response.json()["data"]
    ] == [(b"picture 0", 7), (b"picture 1", 8), (b"picture 2", 9)]


async def test_bare_request_leaves_all_to_the_model() -> None:
    painter = FakePainter()

    response = await ask(painter)

    assert painter.requests == [
        ImageRequest(
            request_id=response.headers["x-request-id"],
            prompt="a dot",
            negative_prompt=None,
            n=1,
            width_px=None,
            height_px=None,
            num_inference_steps=None,
            guidance_scale=None,
            seed=None,
            origin=ORIGIN,
        )
    ]


async def test_all_that_the_request_says_reaches_the_model() -> None:
    painter = FakePainter()

    response = await ask(
        painter,
        negative_prompt="a line",
        n=2,
        size="256x128",
        num_inference_steps=4,
        guidance_scale=0,
        seed=0,
        response_format="b64_json",
        user="ann",
    )

    assert painter.requests == [
        ImageRequest(
            request_id=response.headers["x-request-id"],
            prompt="a dot",
            negative_prompt="a line",
            n=2,
            width_px=256,
            height_px=128,
            num_inference_steps=4,
            guidance_scale=0.0,
            seed=0,
            origin=replace(ORIGIN, user="ann"),
        )
    ]


@pytest.mark.parametrize("size", ["256x128", "256X128", "256*128", "256×128"])
async def test_size_of_the_answer_is_written_one_way(size: str) -> None:
    response = await ask(size=size)

    assert response.json()["size"] == "256x128"


@pytest.mark.parametrize("size", ["auto", None])
async def test_size_may_be_left_to_the_model(size: str | None) -> None:
    response = await ask(size=size)

    assert response.json()["size"] == "64x48"


@pytest.mark.parametrize("size", ["big", "0x64", "64", "64x64x64"])
async def test_bad_size_returns_400(size: str) -> None:
    response = await ask(size=size)

    assert response.error() == (400, "invalid_value", "size")
    assert "512x512" in response.message()


async def test_more_images_than_the_limit_are_refused() -> None:
    app = build_app(limits=Limits(max_images=2))

    response = await request(app, "POST", URL, json_body={**BODY, "n": 3})

    assert response.error() == (400, "invalid_value", "n")
    assert "at most 2" in response.message()


async def test_more_pixels_than_the_limit_are_refused() -> None:
    app = build_app(limits=Limits(max_image_pixels=64 * 64))

    response = await request(app, "POST", URL, json_body={**BODY, "size": "128x64"})

    assert response.error() == (400, "invalid_value", "size")
    assert "4096 pixels" in response.message()


async def test_as_many_images_and_pixels_as_the_limit_pass() -> None:
    app = build_app(limits=Limits(max_images=2, max_image_pixels=64 * 64))

    response = await request(app, "POST", URL, json_body={**BODY, "n": 2, "size": "64x64"})

    assert response.status == 200


async def test_url_is_no_response_format_here() -> None:
    response = await ask(response_format="url")

    assert response.error() == (400, "invalid_value", "response_format")


async def test_error_of_the_model_has_its_status() -> None:
    error = InvalidRequest("Width must be a multiple of 8.", param="size")

    response = await ask(FakePainter(error=error))

    assert response.error() == (400, "invalid_value", "size")


async def test_unknown_model_returns_404() -> None:
    response = await ask(model="nobody")

    assert response.error() == (404, "model_not_found", "model")


@pytest.mark.parametrize("model", [LLM, ENCODER])
async def test_model_of_another_kind_returns_400(model: str) -> None:
    response = await ask(model=model)

    assert response.error() == (400, "wrong_model_kind", "model")


async def test_unsupported_parameter_returns_400() -> None:
    response = await ask(quality="hd")

    assert response.error() == (400, "unsupported_parameter", "quality")


async def test_client_that_leaves_cancels_the_call() -> None:
    painter = FakePainter(held=True)
    async with post(build_app(painter=painter), URL, BODY) as exchange:
        await painter.gate.waiting.wait()
        exchange.disconnect()
        response = await exchange.end()

    assert painter.cancelled == 1
    assert response.messages == []


async def test_answer_that_takes_too_long_is_stopped() -> None:
    painter = FakePainter(held=True)
    app = build_app(painter=painter, limits=Limits(request_timeout_s=0.01))

    response = await request(app, "POST", URL, json_body=BODY)

    assert response.error() == (504, "deadline_exceeded", None)
    assert painter.cancelled == 1
