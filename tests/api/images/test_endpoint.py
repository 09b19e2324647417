import base64
import json
from dataclasses import replace
from typing import Any

import pytest

from api.app import create_app
from api.errors import EngineError, InvalidRequestError
from api.ports.images import ImageEncoding, ImageRequest
from api.ports.tenancy import RequestContext
from api.services import Services
from api.settings import Limits
from tests.helpers.asgi import Response, post, request
from tests.helpers.fakes import ENCODER, LLM, PAINTER, FakePainter, build_app, build_models

URL = "/v1/images/generations"
BODY = {"model": PAINTER, "prompt": "a dot"}
ORIGIN = RequestContext("anonymous", "default", endpoint="images/generations", model=PAINTER)


async def ask(painter: FakePainter | None = None, **members: Any) -> Response:
    return await request(build_app(painter=painter), "POST", URL, json_body={**BODY, **members})


async def test_response_is_an_images_response() -> None:
    response = await ask()

    value = response.json()
    assert value.pop("created") > 1_700_000_000
    assert value == {
        "data": [
            {
                "b64_json": base64.b64encode(b"image 0").decode(),
                "url": None,
                "revised_prompt": None,
                "seed": 0,
            }
        ],
        "size": "64x48",
        "output_format": "png",
        "background": "opaque",
        "usage": {
            "input_tokens": 6,
            "input_tokens_details": {"text_tokens": 6, "image_tokens": 0},
            "output_tokens": 1,
            "total_tokens": 7,
        },
    }


async def test_n_images_have_n_seeds() -> None:
    response = await ask(n=3, seed=7)

    assert [
        (base64.b64decode(image["b64_json"]), image["seed"]) for image in response.json()["data"]
    ] == [(b"image 0", 7), (b"image 1", 8), (b"image 2", 9)]


async def test_absent_parameters_are_left_to_the_model() -> None:
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
            context=replace(ORIGIN, usage_id=painter.requests[0].context.usage_id),
        )
    ]


async def test_every_parameter_reaches_the_model() -> None:
    painter = FakePainter()

    response = await ask(
        painter,
        negative_prompt="a line",
        n=2,
        size="256x128",
        num_inference_steps=4,
        guidance_scale=0,
        true_cfg_scale=2,
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
            true_cfg_scale=2.0,
            seed=0,
            context=replace(ORIGIN, user="ann", usage_id=painter.requests[0].context.usage_id),
        )
    ]


@pytest.mark.parametrize("size", ["256x128", "256X128", "256*128", "256×128"])
async def test_size_in_the_response_has_one_format(size: str) -> None:
    response = await ask(size=size)

    assert response.json()["size"] == "256x128"


@pytest.mark.parametrize("size", ["auto", None])
async def test_size_may_be_left_to_the_model(size: str | None) -> None:
    response = await ask(size=size)

    assert response.json()["size"] == "64x48"


@pytest.mark.parametrize("size", ["big", "0x64", "64", "64x64x64"])
async def test_invalid_size_returns_400(size: str) -> None:
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


async def test_as_many_images_and_pixels_as_the_limit_are_accepted() -> None:
    app = build_app(limits=Limits(max_images=2, max_image_pixels=64 * 64))

    response = await request(app, "POST", URL, json_body={**BODY, "n": 2, "size": "64x64"})

    assert response.status == 200


async def test_url_without_an_image_store_returns_400() -> None:
    response = await ask(response_format="url")

    assert response.error() == (400, "invalid_value", "response_format")


async def test_error_of_the_model_has_its_status() -> None:
    error = InvalidRequestError("Width must be a multiple of 8.", param="size")

    response = await ask(FakePainter(error=error))

    assert response.error() == (400, "invalid_value", "size")


async def test_unknown_model_returns_404() -> None:
    response = await ask(model="absent")

    assert response.error() == (404, "model_not_found", "model")


@pytest.mark.parametrize("model", [LLM, ENCODER])
async def test_model_of_another_kind_returns_400(model: str) -> None:
    response = await ask(model=model)

    assert response.error() == (400, "wrong_model_kind", "model")


@pytest.mark.parametrize(
    ("name", "value"), [("style", "vivid"), ("moderation", "low"), ("background", "transparent")]
)
async def test_unsupported_parameter_returns_400(name: str, value: str) -> None:
    response = await ask(**{name: value})

    assert response.error() == (400, "unsupported_parameter", name)


async def test_disconnect_cancels_the_call() -> None:
    painter = FakePainter(held=True)
    async with post(build_app(painter=painter), URL, BODY) as exchange:
        await painter.gate.waiting.wait()
        exchange.disconnect()
        response = await exchange.end()

    assert painter.cancelled == 1
    assert response.messages == []


async def test_deadline_cancels_the_call() -> None:
    painter = FakePainter(held=True)
    app = build_app(painter=painter, limits=Limits(request_timeout_s=0.01))

    response = await request(app, "POST", URL, json_body=BODY)

    assert response.error() == (504, "deadline_exceeded", None)
    assert painter.cancelled == 1


async def test_quality_that_the_model_lacks_is_reported_as_without_effect() -> None:
    response = await ask(quality="high", safety_identifier="a")

    assert response.headers["x-ignored-parameters"] == "safety_identifier, quality"
    assert "quality" not in response.json()


async def test_quality_that_the_model_has_reaches_it() -> None:
    painter = FakePainter()
    models = build_models(painter=painter, painter_capabilities={"qualities": {"high": 50}})
    app = create_app(models, None, Services())

    response = await request(app, "POST", URL, json_body={**BODY, "quality": "high"})

    assert painter.requests[0].quality == "high"
    assert response.json()["quality"] == "high"
    assert "x-ignored-parameters" not in response.headers


@pytest.mark.parametrize(
    ("members", "file"),
    [
        ({}, ImageEncoding("png")),
        ({"output_format": "webp"}, ImageEncoding("webp", 100)),
        ({"output_format": "jpeg", "output_compression": 0}, ImageEncoding("jpeg", 0)),
    ],
)
async def test_format_and_compression_reach_the_model(
    members: dict[str, Any], file: ImageEncoding
) -> None:
    painter = FakePainter()

    response = await ask(painter, **members)

    assert painter.requests[0].file == file
    assert response.json()["output_format"] == file.format


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"output_compression": 50}, "output_compression"),
        ({"output_compression": 101, "output_format": "jpeg"}, "output_compression"),
        ({"output_format": "gif"}, "output_format"),
        ({"partial_images": 1}, "partial_images"),
        ({"partial_images": 4, "stream": True}, "partial_images"),
        ({"stream": True, "n": 2}, "n"),
        ({"quality": "best"}, "quality"),
    ],
)
async def test_contradicting_parameters_return_400(members: dict[str, Any], param: str) -> None:
    response = await ask(**members)

    assert response.error() == (400, "invalid_value", param)


async def test_scheduler_reaches_the_model() -> None:
    painter = FakePainter()

    await ask(painter, scheduler="DDIMScheduler", background="opaque")

    assert painter.requests[0].scheduler == "DDIMScheduler"


def events_of(response: Response) -> list[tuple[str, dict[str, Any]]]:
    """Decode the events of an image stream: name and payload."""
    blocks = b"".join(response.chunks).decode().strip().split("\n\n")
    pairs = [block.split("\n") for block in blocks if block.startswith("event: ")]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in pairs
    ]


async def test_stream_has_previews_and_ends_with_the_image() -> None:
    response = await ask(stream=True, partial_images=2, size="64x48", seed=3)
    (first, one), (second, two), (last, end) = events_of(response)

    assert (first, second) == ("image_generation.partial_image",) * 2
    assert [one["partial_image_index"], two["partial_image_index"]] == [0, 1]
    assert base64.b64decode(one["b64_json"]) == b"preview 1"
    assert base64.b64decode(two["b64_json"]) == b"preview 2"
    assert last == end["type"] == "image_generation.completed"
    assert base64.b64decode(end["b64_json"]) == b"image 0"
    assert (end["size"], end["seed"], end["usage"]["total_tokens"]) == ("64x48", 3, 7)
    assert (one["size"], one["quality"], one["background"]) == ("64x48", "auto", "opaque")
    assert b"[DONE]" not in b"".join(response.chunks)


async def test_stream_reports_steps_in_comments() -> None:
    response = await ask(stream=True)

    assert [chunk for chunk in response.chunks if chunk.startswith(b":")] == [
        b": step 1 of 3\n\n",
        b": step 2 of 3\n\n",
        b": step 3 of 3\n\n",
    ]


async def test_preview_without_a_requested_size_has_size_auto() -> None:
    response = await ask(stream=True, partial_images=1)

    assert [payload["size"] for _, payload in events_of(response)] == ["auto", "64x48"]


async def test_failure_after_the_first_step_is_an_event() -> None:
    painter = FakePainter(error=EngineError("It broke."))

    response = await ask(painter, stream=True)

    assert response.status == 200
    assert b'"code": "engine_error"' in response.chunks[-1]
    assert painter.streams[0].is_closed


async def test_disconnect_closes_the_stream() -> None:
    painter = FakePainter(held=True)
    async with post(build_app(painter=painter), URL, {**BODY, "stream": True}) as exchange:
        await painter.gate.waiting.wait()
        exchange.disconnect()
        await exchange.end()

    assert painter.streams[0].is_closed


async def test_deadline_before_the_first_step_returns_504() -> None:
    painter = FakePainter(held=True)
    app = build_app(painter=painter, limits=Limits(request_timeout_s=0.01))

    response = await request(app, "POST", URL, json_body={**BODY, "stream": True})

    assert response.error() == (504, "deadline_exceeded", None)
