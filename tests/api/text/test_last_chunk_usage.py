"""The dialect that puts the usage on the last chunk with content."""

from collections.abc import Sequence
from typing import Any

import pytest

from api.ports.stream import Delta, Extra
from api.text.last_chunk_usage import LastChunkBuffer
from tests.helpers.asgi import request
from tests.helpers.fakes import HELLO, LLM, FakeLlm, build_app


def let_go(batches: Sequence[Sequence[Delta]]) -> tuple[list[Delta], Delta | None]:
    held = LastChunkBuffer()
    ready = [delta for batch in batches for delta in held.swap(batch)]
    return ready, held.delta


def test_the_end_goes_onto_the_text_before_it() -> None:
    assert let_go(HELLO) == ([Delta(0, "Hel")], Delta(0, "lo", "stop"))


def test_an_end_of_another_choice_stays_where_it_is() -> None:
    deltas = [Delta(0, "a"), Delta(1, "b"), Delta(0, "", "stop"), Delta(1, "", "length")]

    assert let_go([deltas]) == (
        [Delta(0, "a"), Delta(1, "b"), Delta(0, "", "stop")],
        Delta(1, "", "length"),
    )


def test_what_carries_more_than_an_end_is_not_merged() -> None:
    rich = Delta(0, "", "stop", Extra(reasoning="hm"))

    assert let_go([[Delta(0, "a"), rich]]) == ([Delta(0, "a")], rich)


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/completions", {"prompt": "Hi"}),
    ],
)
@pytest.mark.parametrize(
    "batches", [HELLO, HELLO[-1:], ((Delta(0, "Hello", "stop", Extra(reasoning="hm")),),)]
)
async def test_the_last_chunk_has_end_and_usage(path: str, members: Any, batches: Any) -> None:
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
    if batches is HELLO:
        choice = last["choices"][0]
        assert (choice.get("text") or choice["delta"]["content"]) == "lo"
