from typing import Any

import pytest

from api.backends import Delta
from api.completions import to_generation
from api.limits import Limits
from api.schema.completions import CompletionRequest
from tests.asgi import Response, request
from tests.fakes import ENCODER, LLM, PAINTER, FakeLlm, build_app

URL = "/v1/completions"
BODY = {"model": LLM, "prompt": "Once"}


async def ask(llm: FakeLlm | None = None, **members: Any) -> Response:
    return await request(build_app(llm), "POST", URL, json_body={**BODY, **members})


def generation_of(**members: Any) -> Any:
    return to_generation(CompletionRequest.model_validate({**BODY, **members}), "req_1")


async def test_answer_is_a_text_completion() -> None:
    response = await ask()

    value = response.json()
    assert value.pop("created") > 1_700_000_000
    assert value == {
        "id": f"cmpl-{response.headers['x-request-id']}",
        "object": "text_completion",
        "model": LLM,
        "choices": [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 2,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


async def test_chunks_are_text_completions_too() -> None:
    response = await ask(stream=True)

    *chunks, done = response.events()
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "text": text, "logprobs": None, "finish_reason": reason}]
        for text, reason in [("Hel", None), ("lo", None), ("", "stop")]
    ]
    assert done == "[DONE]"


async def test_usage_chunk_has_the_same_heading_and_no_choices() -> None:
    response = await ask(stream=True, stream_options={"include_usage": True})

    first, *_, last, _ = response.events()
    assert {**last, "usage": None, "choices": first["choices"]} == first
    assert last["choices"] == []


async def test_finish_reason_rides_on_the_last_text() -> None:
    response = await ask(FakeLlm([(Delta(0, "all", "length"),)]), stream=True)

    assert [
        (chunk["choices"][0]["text"], chunk["choices"][0]["finish_reason"])
        for chunk in response.events()[:-1]
    ] == [("all", "length")]


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Once", ("Once",)),
        (["Once", "Twice"], ("Once", "Twice")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
    ],
)
async def test_prompts_reach_the_model(prompt: Any, prompts: tuple[Any, ...]) -> None:
    llm = FakeLlm()

    await ask(llm, prompt=prompt)

    assert llm.generations[0].prompts == prompts


@pytest.mark.parametrize(("members", "max_tokens"), [({}, 16), ({"max_tokens": 5}, 5)])
def test_max_tokens_is_16_unless_given(members: dict[str, int], max_tokens: int) -> None:
    assert generation_of(**members).sampling.max_tokens == max_tokens


async def test_choices_of_all_prompts_are_limited_together() -> None:
    app = build_app(limits=Limits(max_choices=5))

    response = await request(
        app, "POST", URL, json_body={**BODY, "prompt": ["a", "b", "c"], "n": 2}
    )

    assert response.error() == (400, "invalid_value", "n")


async def test_unknown_model_returns_404() -> None:
    response = await ask(model="nobody")

    assert response.error() == (404, "model_not_found", "model")


@pytest.mark.parametrize("model", [ENCODER, PAINTER])
async def test_model_of_another_kind_returns_400(model: str) -> None:
    response = await ask(model=model)

    assert response.error() == (400, "wrong_model_kind", "model")


async def test_unsupported_parameter_returns_400() -> None:
    response = await ask(echo=True)

    assert response.error() == (400, "unsupported_parameter", "echo")
