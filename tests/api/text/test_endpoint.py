"""The behaviour that chat and completions share, tested through both."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from api.errors import (
    ApiError,
    ContextLengthExceededError,
    DeadlineExceededError,
    EngineError,
    ModelFailedError,
    ModelStartingError,
    OverloadedError,
    ReplicaLostError,
)
from api.http.draining import Draining
from api.ports.stream import TextDelta, Usage
from api.settings import Limits
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
    """Return the text that one event adds, of either endpoint."""
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
async def test_all_chunks_share_id_time_model_and_object(path: str, body: Any) -> None:
    response = await stream(FakeLlm(), path, body, stream_options={"include_usage": True})

    shared = {
        (event["id"], event["created"], event["model"], event["object"])
        for event in response.events()[:-1]
    }
    assert len(shared) == 1


@BOTH
async def test_response_id_contains_the_request_id(path: str, body: Any) -> None:
    llm = FakeLlm()

    response = await request(
        build_app(llm), "POST", path, json_body=body, headers={"x-request-id": "my-id"}
    )

    assert response.json()["id"].endswith("-my-id")
    assert llm.generations[0].request_id == "my-id"


@BOTH
async def test_each_batch_of_deltas_is_one_send(path: str, body: Any) -> None:
    llm = FakeLlm(
        [(TextDelta(0, "a"), TextDelta(0, "b"), TextDelta(0, "c")), (TextDelta(0, "d", "stop"),)]
    )

    response = await stream(llm, path, body)

    *looks, done = [read_events(chunk) for chunk in response.chunks]
    assert ["".join(map(text_of, events)) for events in looks] == ["abc", "d"]
    assert done == ["[DONE]"]


@BOTH
async def test_deltas_are_sent_as_they_arrive(path: str, body: Any) -> None:
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
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_client_may_say_how_long_it_waits(path: str, body: Any, is_streamed: bool) -> None:
    response = await request(
        build_app(FakeLlm(held=True)),
        "POST",
        path,
        json_body={**body, "stream": is_streamed},
        headers={"x-request-timeout": "0.01"},
    )

    assert response.error() == (504, "deadline_exceeded", None)


@BOTH
async def test_stopping_service_refuses_requests_and_lets_streams_finish(
    path: str, body: Any
) -> None:
    llm, draining = FakeLlm(held=True), Draining()
    app = build_app(llm, draining=draining)
    async with post(app, path, {**body, "stream": True}) as exchange:
        await llm.gate.waiting.wait()
        draining.begin()
        refused = await request(app, "POST", path, json_body=body)
        llm.gate.release(10)
        response = await exchange.end()

    assert refused.error() == (503, "service_stopping", None)
    assert refused.headers["retry-after"] == "5"
    assert response.events()[-1] == "[DONE]"


@BOTH
async def test_stopped_service_ends_streams_with_an_error(path: str, body: Any) -> None:
    llm, draining = FakeLlm(held=True), Draining()
    app = build_app(llm, draining=draining)
    async with post(app, path, {**body, "stream": True}) as exchange:
        await llm.gate.waiting.wait()
        llm.gate.release()
        await exchange.sent(2)
        draining.end()
        response = await exchange.end()

    assert response.events()[-1]["error"]["code"] == "service_stopping"
    assert len(draining) == 0


@BOTH
async def test_interleaved_choices_keep_their_index(path: str, body: Any) -> None:
    llm = FakeLlm(
        [
            (TextDelta(1, "x"), TextDelta(0, "a")),
            (TextDelta(0, "b"), TextDelta(1, "y", "length")),
            (TextDelta(0, "c", "stop"),),
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
    response = await stream(FakeLlm([(TextDelta(0, text, "stop"),)]), path, body)

    assert "".join(text_of(event) for event in response.events()[:-1]) == text
    assert response.body.isascii()


@BOTH
async def test_requested_usage_is_the_last_chunk(path: str, body: Any) -> None:
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
async def test_no_chunk_has_usage_by_default(path: str, body: Any, options: Any) -> None:
    response = await stream(FakeLlm(), path, body, stream_options=options)

    assert [event for event in response.events()[:-1] if "usage" in event] == []
    assert [event for event in response.events()[:-1] if not event["choices"]] == []


@BOTH
async def test_include_obfuscation_is_reported_as_without_effect(path: str, body: Any) -> None:
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
async def test_unexpected_error_before_the_first_delta_is_a_plain_500(path: str, body: Any) -> None:
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
async def test_failed_stream_is_logged_with_its_request_id(
    path: str, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "api")

    response = await stream(FakeLlm(HELLO[:1], error=EngineError("It broke.")), path, body)

    assert "engine_error" in caplog.text
    assert response.headers["x-request-id"] in caplog.text


@BOTH
async def test_unexpected_error_after_the_first_delta_aborts_the_connection(
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
async def test_disconnect_before_the_first_delta_closes_the_stream(path: str, body: Any) -> None:
    llm = FakeLlm(held=True)
    async with post(build_app(llm), path, {**body, "stream": True}) as exchange:
        await llm.gate.waiting.wait()
        exchange.disconnect()
        response = await exchange.end()

    assert [each.is_closed for each in llm.streams] == [True]
    assert response.messages == []


@BOTH
async def test_disconnect_during_the_stream_closes_it(path: str, body: Any) -> None:
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
async def test_disconnect_cancels_the_call(path: str, body: Any) -> None:
    llm = FakeLlm(held=True)
    async with post(build_app(llm), path, body) as exchange:
        await llm.gate.waiting.wait()
        exchange.disconnect()
        response = await exchange.end()

    assert llm.cancelled == 1
    assert response.messages == []


@BOTH
async def test_shutdown_cancels_the_call(path: str, body: Any) -> None:
    llm = FakeLlm(held=True)
    asking = asyncio.create_task(request(build_app(llm), "POST", path, json_body=body))
    await llm.gate.waiting.wait()

    asking.cancel()
    await asyncio.wait({asking})

    assert asking.cancelled()
    assert llm.cancelled == 1


@BOTH
async def test_deadline_cancels_the_call(path: str, body: Any) -> None:
    llm = FakeLlm(held=True)
    app = build_app(llm, limits=Limits(request_timeout_s=0.01))

    response = await request(app, "POST", path, json_body=body)

    assert response.error() == (504, "deadline_exceeded", None)
    assert response.headers["x-should-retry"] == "false"
    assert llm.cancelled == 1


@BOTH
async def test_deadline_before_the_first_delta_returns_504(path: str, body: Any) -> None:
    llm = FakeLlm(held=True)
    app = build_app(llm, limits=Limits(request_timeout_s=0.01))

    response = await request(app, "POST", path, json_body={**body, "stream": True})

    assert response.error() == (504, "deadline_exceeded", None)
    assert [each.is_closed for each in llm.streams] == [True]


@BOTH
async def test_deadline_during_the_stream_ends_it_with_an_error(path: str, body: Any) -> None:
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
