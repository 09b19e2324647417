"""The flow that chat and completions share, seen through both."""

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from api.errors import (
    ApiError,
    ContextLengthExceededError,
    DeadlineExceededError,
    EngineError,
    InvalidRequestError,
    ModelFailedError,
    ModelStartingError,
    OverloadedError,
    ReplicaLostError,
)
from api.ports.stream import Delta, Usage
from api.ports.text import Sampling
from api.registry import TextOptions
from api.schema.common import StreamOptions, TextRequest
from api.settings import Limits
from api.text.endpoint import Heading, check_text_request, to_sampling
from api.text.json_parts import to_ascii_json, to_usage
from tests.helpers.asgi import Response, check_error, post, read_events, request
from tests.helpers.fakes import HELLO, LLM, FakeLlm, build_app

CHAT = (
    "/v1/chat/completions",
    {"model": LLM, "messages": [{"role": "user", "content": "Hi"}]},
)
COMPLETIONS = ("/v1/completions", {"model": LLM, "prompt": "Hi"})
BOTH = pytest.mark.parametrize(("path", "body"), [CHAT, COMPLETIONS], ids=["chat", "completions"])
ERRORS: Sequence[ApiError] = [
    ContextLengthExceededError("The prompt is too long.", param="messages"),
    EngineError("The engine failed."),
    OverloadedError("Full."),
    ModelFailedError("It could not be loaded.", param="model"),
    ModelStartingError("It is being loaded."),
    ReplicaLostError("It went away."),
    DeadlineExceededError("Too long."),
]


async def stream(llm: FakeLlm, path: str, body: Any, **members: Any) -> Response:
    return await request(
        build_app(llm), "POST", path, json_body={**body, "stream": True, **members}
    )


def text_of(event: Any) -> str:
    """The text that one event adds, in either wording."""
    choice = event["choices"][0]
    return str(choice["text"] if "text" in choice else choice["delta"].get("content", ""))


@BOTH
async def test_stream_ends_with_done(path: str, body: Any) -> None:
    response = await stream(FakeLlm(), path, body)

    assert response.status == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-request-id"]
    assert response.events()[-1] == "[DONE]"
    assert response.is_ended


@BOTH
async def test_all_chunks_share_their_heading(path: str, body: Any) -> None:
    response = await stream(FakeLlm(), path, body, stream_options={"include_usage": True})

    headings = {
        (event["id"], event["created"], event["model"], event["object"])
        for event in response.events()[:-1]
    }
    assert len(headings) == 1


@BOTH
async def test_id_of_the_answer_holds_the_request_id(path: str, body: Any) -> None:
    llm = FakeLlm()

    response = await request(
        build_app(llm), "POST", path, json_body=body, headers={"x-request-id": "my-id"}
    )

    assert response.json()["id"].endswith("-my-id")
    assert llm.generations[0].request_id == "my-id"


@BOTH
async def test_each_look_at_the_stream_is_one_send(path: str, body: Any) -> None:
    llm = FakeLlm([(Delta(0, "a"), Delta(0, "b"), Delta(0, "c")), (Delta(0, "d", "stop"),)])

    response = await stream(llm, path, body)

    *looks, done = [read_events(chunk) for chunk in response.chunks]
    assert ["".join(map(text_of, events)) for events in looks] == ["abc", "d"]
    assert done == ["[DONE]"]


@BOTH
async def test_deltas_are_sent_as_they_come(path: str, body: Any) -> None:
    llm = FakeLlm(held=True)
    async with post(build_app(llm), path, {**body, "stream": True}) as exchange:
        await llm.gate.waiting.wait()
        before = len(exchange.response.messages)
        llm.gate.release()
        await exchange.sent(2)
        texts_then = [text_of(event) for event in exchange.response.events()]
        llm.gate.release(10)
        response = await exchange.end()

    assert before == 0
    assert "".join(texts_then) == "Hel"
    assert response.events()[-1] == "[DONE]"


@BOTH
async def test_interleaved_choices_keep_their_index(path: str, body: Any) -> None:
    llm = FakeLlm(
        [
            (Delta(1, "x"), Delta(0, "a")),
            (Delta(0, "b"), Delta(1, "y", "length")),
            (Delta(0, "c", "stop"),),
        ]
    )

    response = await stream(llm, path, body, n=2)

    texts = [(event["choices"][0]["index"], text_of(event)) for event in response.events()[:-1]]
    assert "".join(text for index, text in texts if index == 0) == "abc"
    assert "".join(text for index, text in texts if index == 1) == "xy"
    assert [
        (event["choices"][0]["index"], event["choices"][0]["finish_reason"])
        for event in response.events()[:-1]
        if event["choices"][0]["finish_reason"]
    ] == [(1, "length"), (0, "stop")]


@BOTH
@pytest.mark.parametrize(
    "text",
    [
        "\n",
        "\r\n\r\ndata: [DONE]\n\n",
        "\u2028\u2029\x85",
        "😀👩‍👩‍👧",
        '"\\"quoted\\" \\u0041',
        "\0\x01\x1f\x7f",
        "é ß 漢字 ‏עברית",
        "</script>",
    ],
    ids=ascii,
)
async def test_unusual_text_survives_the_stream(path: str, body: Any, text: str) -> None:
    response = await stream(FakeLlm([(Delta(0, text, "stop"),)]), path, body)

    assert "".join(text_of(event) for event in response.events()[:-1]) == text
    assert response.body.isascii()


@BOTH
async def test_usage_comes_last_when_asked_for(path: str, body: Any) -> None:
    llm = FakeLlm(usage=Usage(5, 2, cached_tokens=4))

    response = await stream(llm, path, body, stream_options={"include_usage": True})

    *chunks, last, done = response.events()
    assert [chunk["usage"] for chunk in chunks] == [None] * len(chunks)
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
    assert done == "[DONE]"


@BOTH
@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}])
async def test_no_chunk_has_usage_unless_asked_for(path: str, body: Any, options: Any) -> None:
    response = await stream(FakeLlm(), path, body, stream_options=options)

    assert [event for event in response.events()[:-1] if "usage" in event] == []
    assert [event for event in response.events()[:-1] if not event["choices"]] == []


@BOTH
async def test_padding_that_is_asked_for_is_listed_as_without_effect(path: str, body: Any) -> None:
    response = await stream(FakeLlm(), path, body, stream_options={"include_obfuscation": True})

    assert response.headers["x-ignored-parameters"] == "stream_options.include_obfuscation"


@BOTH
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
async def test_error_of_the_model_has_its_status(path: str, body: Any, error: ApiError) -> None:
    response = await request(build_app(FakeLlm(error=error)), "POST", path, json_body=body)

    assert response.error() == (error.status, error.code, error.param)


@BOTH
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
async def test_error_before_the_first_delta_has_its_status(
    path: str, body: Any, error: ApiError
) -> None:
    response = await stream(FakeLlm([], error=error), path, body)

    assert response.error() == (error.status, error.code, error.param)


@BOTH
async def test_foreign_error_before_the_first_delta_is_a_plain_500(path: str, body: Any) -> None:
    response = await stream(FakeLlm([], error=RuntimeError("secret")), path, body)

    assert response.error() == (500, "internal_error", None)
    assert b"secret" not in response.body


@BOTH
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
async def test_error_after_the_first_delta_is_the_last_event(
    path: str, body: Any, error: ApiError
) -> None:
    response = await stream(FakeLlm(HELLO[:1], error=error), path, body)

    assert response.status == 200
    *chunks, last = response.events()
    assert "".join(map(text_of, chunks)) == "Hel"
    assert last == error.body()
    check_error(last["error"])
    assert response.is_ended


@BOTH
async def test_broken_stream_is_logged_with_its_request_id(
    path: str, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "api")

    response = await stream(FakeLlm(HELLO[:1], error=EngineError("It broke.")), path, body)

    assert "engine_error" in caplog.text
    assert response.headers["x-request-id"] in caplog.text


@BOTH
async def test_foreign_error_after_the_first_delta_breaks_the_connection(
    path: str, body: Any
) -> None:
    llm = FakeLlm(HELLO[:1], error=RuntimeError("secret"))
    exchange = post(build_app(llm), path, {**body, "stream": True})

    with pytest.raises(RuntimeError):
        async with exchange:
            pass

    assert not exchange.response.is_ended
    assert b"secret" not in exchange.response.body


@BOTH
@pytest.mark.parametrize("error", [None, EngineError("It broke."), RuntimeError("It broke.")])
async def test_stream_is_closed_when_it_has_ended(
    path: str, body: Any, error: Exception | None
) -> None:
    llm = FakeLlm([], error=error)

    await stream(llm, path, body)

    assert [each.is_closed for each in llm.streams] == [True]


@BOTH
async def test_client_that_leaves_before_the_first_delta_ends_the_stream(
    path: str, body: Any
) -> None:
    llm = FakeLlm(held=True)
    async with post(build_app(llm), path, {**body, "stream": True}) as exchange:
        await llm.gate.waiting.wait()
        exchange.disconnect()
        response = await exchange.end()

    assert [each.is_closed for each in llm.streams] == [True]
    assert response.messages == []


@BOTH
async def test_client_that_leaves_half_way_ends_the_stream(path: str, body: Any) -> None:
    llm = FakeLlm(held=True)
    async with post(build_app(llm), path, {**body, "stream": True}) as exchange:
        llm.gate.release()
        await exchange.sent(2)
        exchange.disconnect()
        response = await exchange.end()

    assert [each.is_closed for each in llm.streams] == [True]
    assert not response.is_ended
    assert b"[DONE]" not in response.body


@BOTH
async def test_client_that_leaves_cancels_the_call(path: str, body: Any) -> None:
    llm = FakeLlm(held=True)
    async with post(build_app(llm), path, body) as exchange:
        await llm.gate.waiting.wait()
        exchange.disconnect()
        response = await exchange.end()

    assert llm.cancelled == 1
    assert response.messages == []


@BOTH
async def test_server_that_shuts_down_cancels_the_call(path: str, body: Any) -> None:
    llm = FakeLlm(held=True)
    asking = asyncio.create_task(request(build_app(llm), "POST", path, json_body=body))
    await llm.gate.waiting.wait()

    asking.cancel()
    await asyncio.wait({asking})

    assert asking.cancelled()
    assert llm.cancelled == 1


@BOTH
async def test_answer_that_takes_too_long_is_stopped(path: str, body: Any) -> None:
    llm = FakeLlm(held=True)
    app = build_app(llm, limits=Limits(request_timeout_s=0.01))

    response = await request(app, "POST", path, json_body=body)

    assert response.error() == (504, "deadline_exceeded", None)
    assert response.headers["x-should-retry"] == "false"
    assert llm.cancelled == 1


@BOTH
async def test_stream_that_takes_too_long_before_its_first_delta_has_a_status(
    path: str, body: Any
) -> None:
    llm = FakeLlm(held=True)
    app = build_app(llm, limits=Limits(request_timeout_s=0.01))

    response = await request(app, "POST", path, json_body={**body, "stream": True})

    assert response.error() == (504, "deadline_exceeded", None)
    assert [each.is_closed for each in llm.streams] == [True]


@BOTH
async def test_stream_that_takes_too_long_half_way_ends_with_an_error(path: str, body: Any) -> None:
    llm = FakeLlm(held=True)
    llm.gate.release()
    app = build_app(llm, limits=Limits(request_timeout_s=0.05))

    response = await request(app, "POST", path, json_body={**body, "stream": True})

    assert response.status == 200
    assert response.events()[-1]["error"]["code"] == "deadline_exceeded"
    assert [each.is_closed for each in llm.streams] == [True]


@BOTH
async def test_stream_options_need_a_stream(path: str, body: Any) -> None:
    response = await request(
        build_app(), "POST", path, json_body={**body, "stream_options": {"include_usage": True}}
    )

    assert response.error() == (400, "invalid_value", "stream_options")


@BOTH
async def test_more_choices_than_the_limit_are_refused(path: str, body: Any) -> None:
    app = build_app(limits=Limits(max_choices=4))

    response = await request(app, "POST", path, json_body={**body, "n": 5})

    assert response.error() == (400, "invalid_value", "n")
    assert "limit is 4" in response.message()


def sample(**members: Any) -> TextRequest:
    return TextRequest(model="m", **members)


def test_sampling_of_a_bare_request_leaves_all_to_the_model() -> None:
    assert to_sampling(sample(), None, None) == Sampling()


def test_sampling_holds_all_that_the_request_says() -> None:
    said = sample(
        temperature=0.5,
        top_p=0.9,
        n=3,
        stop=["a", "b"],
        seed=-1,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        max_tokens=9,
        ignore_eos=True,
        top_k=4,
        min_p=0.1,
        repetition_penalty=1.1,
        min_tokens=2,
        stop_token_ids=[1, 2],
        bad_words=["c"],
        allowed_token_ids=[3, 4],
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        logit_bias={"5": -1.0, "6": None},
    )

    assert to_sampling(said, 7, 8, logprobs=2) == Sampling(
        temperature=0.5,
        top_p=0.9,
        n=3,
        stop=("a", "b"),
        seed=-1,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        max_tokens=7,
        default_max_tokens=8,
        ignore_eos=True,
        top_k=4,
        min_p=0.1,
        repetition_penalty=1.1,
        min_tokens=2,
        stop_token_ids=(1, 2),
        bad_words=("c",),
        allowed_token_ids=(3, 4),
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        logit_bias={5: -1.0},
        logprobs=2,
    )


def test_top_p_of_0_leaves_only_the_likeliest_token() -> None:
    top_p = to_sampling(sample(top_p=0.0), None, None).top_p

    assert top_p is not None
    assert 0 < top_p < 0.001


def test_choices_are_prompts_times_n() -> None:
    with pytest.raises(InvalidRequestError, match="3 prompts with n=2 make 6 choices") as caught:
        check_text_request(sample(n=2), 3, Limits(max_choices=5))

    assert caught.value.param == "n"


def test_as_many_choices_as_the_limit_pass() -> None:
    check_text_request(sample(n=2), 3, Limits(max_choices=6))


def test_stream_options_pass_with_a_stream() -> None:
    check_text_request(sample(stream=True, stream_options=StreamOptions()), 1, Limits())


def test_usage_adds_up() -> None:
    assert to_usage(Usage(3, 4)) == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_heading_holds_prefix_and_time() -> None:
    heading = Heading.new("cmpl", "req_1", "m", TextOptions())

    assert (heading.id, heading.model) == ("cmpl-req_1", "m")
    assert heading.created_s > 1_700_000_000


@pytest.mark.parametrize("text", ["", "a", "\ud800", "é\n\u2028😀\0"], ids=ascii)
def test_ascii_json_is_both(text: str) -> None:
    encoded = to_ascii_json(text)

    assert encoded.isascii()
    assert json.loads(encoded) == text
