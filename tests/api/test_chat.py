import json
from typing import Any

import pytest

from api.backends import Conversation, Delta, Message
from api.chat import to_generation
from api.schema.chat import ChatRequest
from tests.asgi import Response, request
from tests.fakes import ENCODER, LLM, PAINTER, FakeLlm, build_app

URL = "/v1/chat/completions"
BODY = {"model": LLM, "messages": [{"role": "user", "content": "Hi"}]}


async def ask(llm: FakeLlm | None = None, **members: Any) -> Response:
    return await request(build_app(llm), "POST", URL, json_body={**BODY, **members})


def generation_of(**members: Any) -> Any:
    return to_generation(ChatRequest.model_validate({**BODY, **members}), "req_1")


async def test_answer_is_a_chat_completion() -> None:
    response = await ask()

    value = response.json()
    assert value.pop("created") > 1_700_000_000
    assert value == {
        "id": f"chatcmpl-{response.headers['x-request-id']}",
        "object": "chat.completion",
        "model": LLM,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 2,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


async def test_answer_holds_every_choice() -> None:
    llm = FakeLlm([(Delta(0, "a", "stop"), Delta(1, "b", "length"))])

    response = await ask(llm, n=2)

    assert [
        (choice["index"], choice["message"]["content"], choice["finish_reason"])
        for choice in response.json()["choices"]
    ] == [(0, "a", "stop"), (1, "b", "length")]


async def test_stream_is_role_then_content_then_finish() -> None:
    response = await ask(stream=True)

    *chunks, done = response.events()
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        for delta, reason in [
            ({"role": "assistant", "content": ""}, None),
            ({"content": "Hel"}, None),
            ({"content": "lo"}, None),
            ({}, "stop"),
        ]
    ]
    assert done == "[DONE]"


async def test_chunk_is_a_chat_completion_chunk() -> None:
    response = await ask(stream=True)

    chunk = response.events()[0]
    assert chunk.keys() == {"id", "object", "created", "model", "choices"}
    assert chunk["id"] == f"chatcmpl-{response.headers['x-request-id']}"
    assert chunk["object"] == "chat.completion.chunk"
    assert chunk["model"] == LLM
    assert chunk["created"] > 1_700_000_000


async def test_usage_chunk_has_the_same_heading_and_no_choices() -> None:
    response = await ask(stream=True, stream_options={"include_usage": True})

    first, *_, last, _ = response.events()
    assert {**last, "usage": None, "choices": first["choices"]} == first
    assert last["choices"] == []


async def test_text_and_finish_reason_of_one_delta_are_two_chunks() -> None:
    response = await ask(FakeLlm([(Delta(0, "all", "length"),)]), stream=True)

    assert [
        (chunk["choices"][0]["delta"], chunk["choices"][0]["finish_reason"])
        for chunk in response.events()[:-1]
    ] == [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "all"}, None),
        ({}, "length"),
    ]


async def test_every_choice_begins_with_its_role() -> None:
    llm = FakeLlm([(Delta(1, "x"), Delta(0, "a")), (Delta(1, "", "stop"), Delta(0, "b", "stop"))])

    response = await ask(llm, stream=True, n=2)

    assert [
        chunk["choices"][0]["index"]
        for chunk in response.events()[:-1]
        if "role" in chunk["choices"][0]["delta"]
    ] == [1, 0]


async def test_empty_answer_still_has_role_and_finish() -> None:
    response = await ask(FakeLlm([(Delta(0, "", "stop"),)]), stream=True)

    assert [chunk["choices"][0]["delta"] for chunk in response.events()[:-1]] == [
        {"role": "assistant", "content": ""},
        {},
    ]


async def test_delta_without_news_is_not_sent() -> None:
    llm = FakeLlm([(Delta(0, "a"),), (Delta(0, ""),), (Delta(0, "", "stop"),)])

    response = await ask(llm, stream=True)

    assert len(response.chunks) == len([b"a", b"finish", b"[DONE]"])


@pytest.mark.parametrize("model", ['quo"te\\', "é", "a\nb"])
async def test_unusual_model_id_survives_the_stream(model: str) -> None:
    from api.chat import ChatAnswer
    from api.text import Heading

    answer = ChatAnswer(
        ChatRequest.model_validate({**BODY, "model": model}), Heading.new("chatcmpl", "r", model)
    )

    assert json.loads(answer.chunks(Delta(0, "a"))[0])["model"] == model


def test_messages_become_a_conversation() -> None:
    generation = generation_of(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi", "name": "ann"},
            {"role": "assistant", "content": "Hello"},
        ]
    )

    assert generation.request_id == "req_1"
    assert generation.prompts == (
        Conversation(
            (
                Message("system", "Be brief."),
                Message("user", "Hi", "ann"),
                Message("assistant", "Hello"),
            )
        ),
    )


def test_developer_is_the_system() -> None:
    generation = generation_of(messages=[{"role": "developer", "content": "Be brief."}])

    assert generation.prompts == (Conversation((Message("system", "Be brief."),)),)


@pytest.mark.parametrize(
    ("members", "max_tokens"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
    ],
)
def test_max_completion_tokens_wins(members: dict[str, int], max_tokens: int | None) -> None:
    assert generation_of(**members).sampling.max_tokens == max_tokens


async def test_unknown_model_returns_404() -> None:
    response = await ask(model="nobody")

    assert response.error() == (404, "model_not_found", "model")


@pytest.mark.parametrize("model", [ENCODER, PAINTER])
async def test_model_of_another_kind_returns_400(model: str) -> None:
    response = await ask(model=model)

    assert response.error() == (400, "wrong_model_kind", "model")


async def test_bad_parameter_returns_400() -> None:
    response = await ask(messages=[{"role": "robot", "content": "Hi"}])

    assert response.error() == (400, "invalid_value", "messages[0].role")
