import base64
import struct
from typing import Any

import numpy as np
import pytest

from api.app import create_app
from api.errors import ContextLengthExceededError
from api.ports.embeddings import Truncation
from api.registry import ModelEntry, Models, Registry
from api.services import Services
from api.settings import Limits
from tests.helpers.asgi import Response, post, request
from tests.helpers.fakes import ENCODER, LLM, PAINTER, FakeEncoder, build_app

URL = "/v1/embeddings"
BODY = {"model": ENCODER, "input": ["a", "b"]}
ROWS = ((0.1, -2.5, 3e-39), (3.4028234663852886e38, 1e-45, -0.0))
"""Rounded, denormal, largest and negative zero: values that a careless conversion changes."""


async def ask(encoder: FakeEncoder | None = None, **members: Any) -> Response:
    return await request(build_app(encoder=encoder), "POST", URL, json_body={**BODY, **members})


async def test_response_is_a_list_of_embeddings() -> None:
    response = await ask(FakeEncoder([(0.5, -2.0), (1.0, 0.25)]))

    assert response.status == 200
    assert response.json() == {
        "object": "list",
        "model": ENCODER,
        "data": [
            {"object": "embedding", "index": 0, "embedding": [0.5, -2.0]},
            {"object": "embedding", "index": 1, "embedding": [1.0, 0.25]},
        ],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }


async def test_base64_is_little_endian_float32() -> None:
    response = await ask(FakeEncoder(ROWS), encoding_format="base64")

    decoded = [base64.b64decode(item["embedding"]) for item in response.json()["data"]]
    assert decoded == [struct.pack("<3f", *row) for row in ROWS]


async def test_floats_and_base64_decode_to_the_same_bits() -> None:
    as_floats = await ask(FakeEncoder(ROWS), encoding_format="float")
    as_base64 = await ask(FakeEncoder(ROWS), encoding_format="base64")

    floats = [struct.pack("<3f", *item["embedding"]) for item in as_floats.json()["data"]]
    decoded = [base64.b64decode(item["embedding"]) for item in as_base64.json()["data"]]
    assert floats == decoded


@pytest.mark.parametrize("value", [None, "float"])
async def test_float_is_the_default(value: str | None) -> None:
    response = await ask(encoding_format=value)

    assert isinstance(response.json()["data"][0]["embedding"], list)


async def test_embeddings_have_the_order_of_the_inputs() -> None:
    rows = [(float(number),) for number in range(100)]

    response = await ask(FakeEncoder(rows), input=[f"text {number}" for number in range(100)])

    assert [(item["index"], item["embedding"]) for item in response.json()["data"]] == [
        (number, [float(number)]) for number in range(100)
    ]


@pytest.mark.parametrize(
    ("value", "inputs"),
    [
        ("a", ("a",)),
        (["a", "b", "a"], ("a", "b", "a")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
    ],
)
async def test_inputs_reach_the_model(value: Any, inputs: tuple[Any, ...]) -> None:
    encoder = FakeEncoder()

    response = await ask(encoder, input=value)

    assert encoder.requests[0].inputs == inputs
    assert encoder.requests[0].request_id == response.headers["x-request-id"]
    assert len(response.json()["data"]) == len(inputs)


async def test_more_inputs_than_the_limit_are_refused() -> None:
    app = build_app(limits=Limits(max_embedding_inputs=2))

    response = await request(app, "POST", URL, json_body={**BODY, "input": ["a", "b", "c"]})

    assert response.error() == (400, "invalid_value", "input")
    assert "limit of 2" in response.message()


async def test_as_many_inputs_as_the_limit_are_accepted() -> None:
    app = build_app(limits=Limits(max_embedding_inputs=2))

    response = await request(app, "POST", URL, json_body=BODY)

    assert response.status == 200


async def test_error_of_the_model_has_its_status() -> None:
    error = ContextLengthExceededError("Input 1 is too long.", param="input[1]")

    response = await ask(FakeEncoder(error=error))

    assert response.error() == (400, "context_length_exceeded", "input[1]")


async def test_unknown_model_returns_404() -> None:
    response = await ask(model="absent")

    assert response.error() == (404, "model_not_found", "model")


@pytest.mark.parametrize("model", [LLM, PAINTER])
async def test_model_of_another_kind_returns_400(model: str) -> None:
    response = await ask(model=model)

    assert response.error() == (400, "wrong_model_kind", "model")


async def test_absent_parameters_are_left_to_the_model() -> None:
    encoder = FakeEncoder()

    await ask(encoder)

    (received,) = encoder.requests
    assert (received.dimensions, received.input_type) == (None, None)
    assert received.truncation == Truncation(max_total_tokens=300_000)


async def test_dimensions_reach_the_model() -> None:
    encoder = FakeEncoder()

    await ask(encoder, dimensions=2)

    assert encoder.requests[0].dimensions == 2


@pytest.mark.parametrize(
    "members",
    [{"input_type": "query"}, {"task": "query"}, {"task": "query", "input_type": "query"}],
)
async def test_input_type_reaches_the_model_by_both_names(members: dict[str, str]) -> None:
    encoder = FakeEncoder()

    await ask(encoder, **members)

    assert encoder.requests[0].input_type == "query"
    assert encoder.requests[0].input_type_name in members


async def test_different_task_and_input_type_are_refused() -> None:
    response = await ask(task="query", input_type="passage")

    assert response.error() == (400, "invalid_value", "task")


@pytest.mark.parametrize(
    ("members", "truncation"),
    [
        ({"truncate": False}, Truncation(False, None, 300_000)),
        ({"truncate": True}, Truncation(True, None, 300_000)),
        ({"truncate": "NONE"}, Truncation(False, None, 300_000)),
        ({"truncate": "END"}, Truncation(True, None, 300_000)),
        ({"truncate_prompt_tokens": -1}, Truncation(True, None, 300_000)),
        ({"truncate_prompt_tokens": 7}, Truncation(True, 7, 300_000)),
        ({"truncate": True, "truncate_prompt_tokens": 7}, Truncation(True, 7, 300_000)),
    ],
)
async def test_truncation_parameters_reach_the_model(
    members: dict[str, Any], truncation: Truncation
) -> None:
    encoder = FakeEncoder()

    await ask(encoder, **members)

    assert encoder.requests[0].truncation == truncation


async def test_truncation_at_the_start_is_unsupported() -> None:
    response = await ask(truncate="START")

    assert response.error() == (400, "unsupported_parameter", "truncate")
    assert "'END'" in response.message()


async def test_token_limit_reaches_the_model() -> None:
    encoder = FakeEncoder()
    app = build_app(encoder=encoder, limits=Limits(max_embedding_tokens=5))

    await request(app, "POST", URL, json_body=BODY)

    assert encoder.requests[0].truncation.max_total_tokens == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("input", []),
        ("input", ""),
        ("input", [""]),
        ("input", ["a", ""]),
        ("input", ["a", 1]),
        ("input", [1, "a"]),
        ("input", ["a", [1]]),
        ("input", [[1], "a"]),
        ("input", [[1], ["a"]]),
        ("input", [1, [2]]),
        ("input", ["a", None]),
        ("input", {"text": "a"}),
        ("input", 1),
        ("input", [[]]),
        ("input", [-1]),
        ("input", [2**31]),
        ("input", [[10**30]]),
        ("input", [1.5]),
        ("input", [True]),
        ("input", ["a"] * 2049),
        ("dimensions", 0),
        ("dimensions", -1),
        ("dimensions", 2**40),
        ("dimensions", 10**30),
        ("dimensions", True),
        ("dimensions", 1.5),
        ("dimensions", "2"),
        ("encoding_format", "int8"),
        ("encoding_format", ""),
        ("encoding_format", 1),
        ("input_type", ""),
        ("input_type", "x" * 65),
        ("truncate", "end"),
        ("truncate", 1),
        ("truncate_prompt_tokens", 0),
        ("truncate_prompt_tokens", -2),
    ],
)
async def test_invalid_value_returns_400_with_its_name(name: str, value: Any) -> None:
    encoder = FakeEncoder()

    response = await ask(encoder, **{name: value})

    assert response.error() == (400, "invalid_value", name)
    assert encoder.requests == []


@pytest.mark.parametrize(("encoding", "dimensions"), [("float", 131_073), ("base64", 1_048_577)])
async def test_large_response_has_the_format_of_a_small_one(encoding: str, dimensions: int) -> None:
    response = await ask(FakeEncoder([[0.5] * dimensions]), input="a", encoding_format=encoding)

    (item,) = response.json()["data"]
    vector = item["embedding"]
    values = np.frombuffer(base64.b64decode(vector), "<f4") if encoding == "base64" else vector
    assert len(values) == dimensions
    assert set(values) == {0.5}


async def test_unusual_model_name_is_returned_unchanged() -> None:
    encoder = FakeEncoder()
    name = 'a"b\\ü'
    models = Models(Registry([ModelEntry(name, "embedding", "ready", encoder, 0)]))

    app = create_app(models, None, Services())
    response = await request(app, "POST", URL, json_body={**BODY, "model": name})

    assert response.json()["model"] == name


async def test_disconnect_cancels_the_call() -> None:
    encoder = FakeEncoder(held=True)
    async with post(build_app(encoder=encoder), URL, BODY) as exchange:
        await encoder.gate.waiting.wait()
        exchange.disconnect()
        response = await exchange.end()

    assert encoder.cancelled == 1
    assert response.messages == []


async def test_deadline_cancels_the_call() -> None:
    encoder = FakeEncoder(held=True)
    app = build_app(encoder=encoder, limits=Limits(request_timeout_s=0.01))

    response = await request(app, "POST", URL, json_body=BODY)

    assert response.error() == (504, "deadline_exceeded", None)
    assert encoder.cancelled == 1
