from typing import Any

import pytest

from api.ports.stream import Extra, TextDelta, TokenLogprob
from api.registry import Llm
from api.schema.completions import CompletionRequest
from api.settings import Limits
from api.text.completions import to_generation
from tests.helpers.asgi import Response, request
from tests.helpers.fakes import ENCODER, LLM, META, PAINTER, FakeLlm, build_app

URL = "/v1/completions"
BODY = {"model": LLM, "prompt": "Once"}


async def ask(llm: FakeLlm | None = None, **members: Any) -> Response:
    return await request(build_app(llm), "POST", URL, json_body={**BODY, **members})


def generation_of(**members: Any) -> Any:
    request = CompletionRequest.model_validate({**BODY, **members})
    return to_generation(request, Llm(FakeLlm()), META)


async def test_response_is_a_text_completion() -> None:
    response = await ask()

    value = response.json()
    assert value.pop("created") > 1_700_000_000
    assert value == {
        "id": f"cmpl-{response.headers['x-request-id']}",
        "object": "text_completion",
        "model": LLM,
        "system_fingerprint": "fp_unknown",
        "choices": [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 2,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
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


async def test_usage_chunk_shares_all_members_but_choices() -> None:
    response = await ask(stream=True, stream_options={"include_usage": True})

    first, *_, last, _ = response.events()
    assert {**last, "usage": None, "choices": first["choices"]} == first
    assert last["choices"] == []


async def test_finish_reason_is_on_the_chunk_of_the_last_text() -> None:
    response = await ask(FakeLlm([(TextDelta(0, "all", "length"),)]), stream=True)

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
    sampling = generation_of(**members).sampling

    assert (sampling.max_tokens or sampling.default_max_tokens) == max_tokens


async def test_choices_of_all_prompts_have_a_common_limit() -> None:
    app = build_app(limits=Limits(max_choices=5))

    response = await request(
        app, "POST", URL, json_body={**BODY, "prompt": ["a", "b", "c"], "n": 2}
    )

    assert response.error() == (400, "invalid_value", "n")


async def test_unknown_model_returns_404() -> None:
    response = await ask(model="absent")

    assert response.error() == (404, "model_not_found", "model")


@pytest.mark.parametrize("model", [ENCODER, PAINTER])
async def test_model_of_another_kind_returns_400(model: str) -> None:
    response = await ask(model=model)

    assert response.error() == (400, "wrong_model_kind", "model")


async def test_unsupported_parameter_returns_400() -> None:
    response = await ask(suffix="!")

    assert response.error() == (400, "unsupported_parameter", "suffix")


async def test_max_tokens_of_0_with_echo_is_accepted() -> None:
    response = await ask(echo=True, max_tokens=0)

    assert response.status == 200


async def test_max_tokens_of_0_without_echo_returns_400() -> None:
    response = await ask(max_tokens=0)

    assert response.error() == (400, "invalid_value", "max_tokens")


def token(text: str, logprob: float | None, *top: TokenLogprob) -> TokenLogprob:
    return TokenLogprob(text, logprob, text.encode(), top)


LIKELY = (
    TextDelta(0, "", None, Extra(prompt_logprobs=(token("Once", None),))),
    TextDelta(0, " a", None, Extra(logprobs=(token(" a", -0.5, token(" b", -0.7)),))),
    TextDelta(0, "", "stop", Extra(logprobs=(token("x", float("-inf")),))),
)


async def test_logprobs_are_parallel_arrays() -> None:
    llm = FakeLlm([LIKELY])

    response = await ask(llm, logprobs=1, echo=True, stream=True)

    *chunks, _ = response.events()
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks] == [
        {"text_offset": [0], "token_logprobs": [None], "tokens": ["Once"], "top_logprobs": [None]},
        {
            "text_offset": [4],
            "token_logprobs": [-0.5],
            "tokens": [" a"],
            "top_logprobs": [{" b": -0.7, " a": -0.5}],
        },
        {
            "text_offset": [6],
            "token_logprobs": [-9999.0],
            "tokens": ["x"],
            "top_logprobs": [{"x": -9999.0}],
        },
    ]
    sampling = llm.generations[0].sampling
    assert (sampling.echo, sampling.logprobs, sampling.prompt_logprobs) == (True, 1, 1)
