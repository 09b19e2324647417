from collections.abc import Sequence
from typing import Any

import pytest

from api.ports.stream import Extra, TextDelta
from api.text.last_chunk_usage import LastChunkBuffer
from tests.helpers.asgi import request
from tests.helpers.fakes import HELLO, LLM, FakeLlm, build_app


def push_all(batches: Sequence[Sequence[TextDelta]]) -> tuple[list[TextDelta], TextDelta | None]:
    buffer = LastChunkBuffer()
    ready = [delta for batch in batches for delta in buffer.push(batch)]
    return ready, buffer.delta


def test_empty_last_delta_is_merged_into_the_text_before() -> None:
    assert push_all(HELLO) == ([TextDelta(0, "Hel")], TextDelta(0, "lo", "stop"))


def test_empty_last_delta_of_another_choice_is_not_merged() -> None:
    deltas = [
        TextDelta(0, "a"),
        TextDelta(1, "b"),
        TextDelta(0, "", "stop"),
        TextDelta(1, "", "length"),
    ]

    assert push_all([deltas]) == (
        [TextDelta(0, "a"), TextDelta(1, "b"), TextDelta(0, "", "stop")],
        TextDelta(1, "", "length"),
    )


def test_last_delta_with_an_extra_is_not_merged() -> None:
    rich = TextDelta(0, "", "stop", Extra(reasoning="hm"))

    assert push_all([[TextDelta(0, "a"), rich]]) == ([TextDelta(0, "a")], rich)


def text_of(chunk: Any) -> str:
    choice = chunk["choices"][0]
    return str(choice.get("text") or choice.get("delta", {}).get("content", ""))


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/completions", {"prompt": "Hi"}),
    ],
)
@pytest.mark.parametrize(
    ("batches", "last_text"),
    [
        (HELLO, "lo"),
        (HELLO[-1:], ""),
        (((TextDelta(0, "Hello", "stop", Extra(reasoning="hm")),),), None),
    ],
)
async def test_last_chunk_has_finish_reason_and_usage(
    path: str, members: Any, batches: Any, last_text: str | None
) -> None:
    body = {
        "model": LLM,
        "stream": True,
        "stream_options": {"usage_placement": "last_chunk"},
        **members,
    }

    response = await request(build_app(FakeLlm(batches)), "POST", path, json_body=body)

    *before, last, done = response.events()
    assert done == "[DONE]"
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["usage"]["completion_tokens"] == 2
    assert all("usage" not in chunk for chunk in before)
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in before)
    assert last_text is None or text_of(last) == last_text
