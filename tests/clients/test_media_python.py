"""Images and embeddings through the official Python SDK: every input form, every error."""

import asyncio
import base64
import io
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from PIL import Image

from tests.helpers.client_programs import Secrets
from tests.helpers.generated_images import decode_image, to_png
from tests.helpers.service import Service

pytestmark = pytest.mark.e2e

IMAGE_MODEL, ENCODER = "shapes", "all-minilm-l6-v2"
PROMPT = "a red circle"
FEW_STEPS = {"num_inference_steps": 6, "seed": 7}
IDS = [7592, 2088]  # hello world
Call = Callable[..., Any]


RED = to_png(Image.new("RGB", (96, 96), "red"))
TRANSPARENT = to_png(Image.new("RGBA", (96, 96), (0, 0, 0, 0)))


def generate(client: Any, **parameters: Any) -> Any:
    request = {"model": IMAGE_MODEL, "prompt": PROMPT, "extra_body": FEW_STEPS}
    return client.images.generate(**{**request, **parameters})


def edit(client: Any, **parameters: Any) -> Any:
    request = {"model": IMAGE_MODEL, "image": RED, "prompt": PROMPT, "extra_body": FEW_STEPS}
    return client.images.edit(**{**request, **parameters})


def embed(client: Any, **parameters: Any) -> Any:
    return client.embeddings.create(**{"model": ENCODER, "input": "hello world", **parameters})


ALL_CALLS = pytest.mark.parametrize("call", [generate, edit, embed])
IMAGE_CALLS = pytest.mark.parametrize("call", [generate, edit])


@pytest.fixture
def client(service: Service) -> OpenAI:
    return service.openai()


@IMAGE_CALLS
@pytest.mark.parametrize(
    ("parameters", "count", "format"),
    [
        ({}, 1, "PNG"),
        ({"n": 2}, 2, "PNG"),
        ({"output_format": "webp"}, 1, "WEBP"),
        ({"output_format": "jpeg", "output_compression": 50}, 1, "JPEG"),
        ({"response_format": "b64_json", "quality": "auto", "background": "opaque"}, 1, "PNG"),
        ({"size": "auto", "user": "ann"}, 1, "PNG"),
    ],
)
def test_images_have_the_requested_count_and_format(
    client: OpenAI, call: Call, parameters: dict[str, Any], count: int, format: str
):
    answer = call(client, **parameters)
    images = [decode_image(each.b64_json) for each in answer.data]

    assert [(image.format, image.size) for image in images] == [(format, (96, 96))] * count
    assert [each.url for each in answer.data] == [None] * count
    assert (answer.size, answer.output_format) == ("96x96", format.lower())
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    assert answer.created > 1_700_000_000


def test_image_has_the_requested_size(client: OpenAI):
    answer = generate(client, size="64x48")

    assert decode_image(answer.data[0].b64_json).size == (64, 48)
    assert answer.size == "64x48"


@IMAGE_CALLS
@pytest.mark.parametrize("partial_images", [0, 1, 2])
def test_stream_sends_previews_and_ends_with_the_completed_image(
    client: OpenAI, call: Call, partial_images: int
):
    whole = call(client).data[0].b64_json
    *previews, last = call(client, stream=True, partial_images=partial_images)

    kind = last.type.partition(".")[0]
    assert [each.type for each in previews] == [f"{kind}.partial_image"] * partial_images
    assert [each.partial_image_index for each in previews] == list(range(partial_images))
    assert last.type == f"{kind}.completed"
    assert last.b64_json == whole
    assert {decode_image(each.b64_json).size for each in [*previews, last]} == {(96, 96)}


@pytest.mark.parametrize(
    "image",
    [RED, ("circle.png", RED, "image/png"), [RED], io.BytesIO(RED)],
    ids=["bytes", "named", "list", "file"],
)
def test_edit_accepts_an_image_in_every_form_of_the_sdk(client: OpenAI, image: Any):
    answer = edit(client, image=image, mask=("mask.png", TRANSPARENT, "image/png"))

    assert decode_image(answer.data[0].b64_json).size == (96, 96)


@pytest.mark.parametrize(
    ("value", "count", "tokens"),
    [
        ("hello world", 1, 4),
        (["hello world", "hello world", "a"], 3, 4 + 4 + 3),
        (IDS, 1, 4),
        ([IDS, IDS], 2, 8),
    ],
    ids=["text", "texts", "ids", "lists of ids"],
)
def test_embeddings_are_equal_in_every_encoding(
    client: OpenAI, value: Any, count: int, tokens: int
):
    by_default = embed(client, input=value)
    floats = embed(client, input=value, encoding_format="float")
    coded = embed(client, input=value, encoding_format="base64")

    decoded = [memoryview(base64.b64decode(each.embedding)).cast("f") for each in coded.data]
    assert [each.tolist() for each in decoded] == [each.embedding for each in by_default.data]
    # JSON's decimals round to the same float32 bits as base64.
    assert [to_float32(each.embedding) for each in floats.data] == [bytes(d) for d in decoded]
    assert [(each.index, len(each.embedding)) for each in floats.data] == [
        (index, 384) for index in range(count)
    ]
    assert coded.usage.prompt_tokens == coded.usage.total_tokens == tokens


def to_float32(values: list[float]) -> bytes:
    import numpy as np

    return np.array(values, np.float32).tobytes()


async def test_async_client_gets_the_same_results(service: Service, client: OpenAI):
    url = f"{service.url}/v1"
    async with AsyncOpenAI(base_url=url, api_key=service.key, max_retries=0) as later:

        async def draw_streamed() -> list[Any]:
            return [event async for event in await generate(later, stream=True)]

        vectors, (last,), edited = await asyncio.gather(
            embed(later), draw_streamed(), edit(later, n=2)
        )

    assert vectors.data[0].embedding == pytest.approx(embed(client).data[0].embedding, abs=1e-2)
    assert decode_image(last.b64_json).size == (96, 96)
    assert len(edited.data) == 2


@pytest.mark.parametrize(
    ("call", "parameters", "code", "param"),
    [
        (generate, {"size": "65x64"}, "invalid_value", "size"),
        (generate, {"n": 0}, "invalid_value", "n"),
        (generate, {"prompt": ""}, "invalid_value", "prompt"),
        (generate, {"output_format": "svg"}, "invalid_value", "output_format"),
        (generate, {"background": "transparent"}, "unsupported_parameter", "background"),
        (generate, {"style": "vivid"}, "unsupported_parameter", "style"),
        (generate, {"extra_body": {"colour": 1}}, "unknown_parameter", "colour"),
        (edit, {"image": b"RIFF....WAVEfmt "}, "invalid_image_file", "image"),
        (edit, {"image": [RED, RED]}, "invalid_image_file", "image"),
        (edit, {"mask": b"ID3"}, "invalid_image_file", "mask"),
        (edit, {"n": 99}, "invalid_value", "n"),
        (edit, {"input_fidelity": "high"}, "unsupported_parameter", "input_fidelity"),
        (embed, {"input": []}, "invalid_value", "input"),
        (embed, {"input": ["a", "word " * 300]}, "context_length_exceeded", "input[1]"),
        (embed, {"dimensions": 128}, "unsupported_parameter", "dimensions"),
        (embed, {"encoding_format": "int8"}, "invalid_value", "encoding_format"),
        (embed, {"extra_body": {"colour": 1}}, "unknown_parameter", "colour"),
    ],
)
def test_invalid_parameter_raises_bad_request_error(
    client: OpenAI, call: Call, parameters: dict[str, Any], code: str, param: str
):
    with pytest.raises(openai.BadRequestError) as caught:
        call(client, **parameters)

    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


@ALL_CALLS
def test_model_of_another_kind_raises_bad_request_error(client: OpenAI, call: Call):
    with pytest.raises(openai.BadRequestError) as caught:
        call(client, model="smollm2-135m-instruct")

    assert (caught.value.code, caught.value.param) == ("wrong_model_kind", "model")


@ALL_CALLS
def test_wrong_key_raises_authentication_error(client: OpenAI, call: Call):
    with pytest.raises(openai.AuthenticationError) as caught:
        call(client.with_options(api_key="sk-wrong"))

    assert (caught.value.code, caught.value.param) == ("invalid_api_key", None)


@ALL_CALLS
def test_key_for_chat_raises_permission_denied_error(client: OpenAI, secrets: Secrets, call: Call):
    with pytest.raises(openai.PermissionDeniedError) as caught:
        call(client.with_options(api_key=secrets["CHAT_KEY"]))

    assert (caught.value.code, caught.value.param) == ("insufficient_permissions", None)


@ALL_CALLS
def test_unknown_model_raises_not_found_error(client: OpenAI, call: Call):
    with pytest.raises(openai.NotFoundError) as caught:
        call(client, model="dall-e-3")

    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("call", "parameters"), [(generate, {"n": 2}), (edit, {"n": 2}), (embed, {})]
)
def test_request_over_the_limit_of_its_key_raises_rate_limit_error(
    client: OpenAI, secrets: Secrets, call: Call, parameters: dict[str, Any]
):
    with pytest.raises(openai.RateLimitError) as caught:
        call(client.with_options(api_key=secrets["SMALL_KEY"]), **parameters)

    assert (caught.value.code, caught.value.param) == ("rate_limit_exceeded", None)
    assert caught.value.type == "rate_limit_error"


@pytest.mark.parametrize(
    ("call", "parameters"),
    [
        (generate, {"prompt": "x" * 9_000_000}),
        (edit, {"image": RED + bytes(26_000_000)}),
        (embed, {"input": "x" * 9_000_000}),
    ],
    ids=["generate", "edit", "embed"],
)
def test_body_over_the_limit_raises_an_error_with_413(
    client: OpenAI, call: Call, parameters: dict[str, Any]
):
    with pytest.raises(openai.APIStatusError) as caught:
        call(client, **parameters)

    assert (caught.value.status_code, caught.value.code) == (413, "payload_too_large")
