import json

import pytest

from api.errors import EngineError
from api.ports.stream import TextDelta, Usage
from api.ports.text import Completion
from api.registry import TextOptions
from api.schema.completions import CompletionRequest
from api.text.completions import CompletionRenderer
from api.text.rendering import ChunkStreamRenderer, ResponseMeta, find_usage_placement
from tests.helpers.asgi import check_error

META = ResponseMeta("cmpl-1", "m", 0, "fp")
END = Completion((), Usage(1, 2))


def stream_of(placement) -> ChunkStreamRenderer:
    return ChunkStreamRenderer(CompletionRenderer(META, placement), placement)


def payloads(events) -> list:
    assert all(name is None for name, _ in events)
    return [payload if payload == b"[DONE]" else json.loads(payload) for _, payload in events]


def test_response_meta_has_prefix_and_time() -> None:
    meta = ResponseMeta.new("cmpl", "req_1", "m", TextOptions())

    assert (meta.id, meta.model) == ("cmpl-req_1", "m")
    assert meta.created_s > 1_700_000_000


def test_stream_without_usage_ends_with_done_alone() -> None:
    assert payloads(stream_of(None).render_end(END)) == [b"[DONE]"]


def test_usage_chunk_comes_before_done() -> None:
    usage, done = payloads(stream_of("own_chunk").render_end(END))

    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == 3
    assert done == b"[DONE]"


def test_usage_on_the_last_chunk_holds_that_chunk_back() -> None:
    stream = stream_of("last_chunk")

    first = payloads(stream.render_deltas([TextDelta(0, "a"), TextDelta(0, "b")]))
    last, done = payloads(stream.render_end(END))

    assert [chunk["choices"][0]["text"] for chunk in first] == ["a"]
    assert last["choices"][0]["text"] == "b"
    assert last["usage"]["total_tokens"] == 3
    assert done == b"[DONE]"


def test_usage_on_the_last_chunk_of_a_stream_without_any_is_a_chunk_of_its_own() -> None:
    usage, done = payloads(stream_of("last_chunk").render_end(END))

    assert (usage["choices"], done) == ([], b"[DONE]")


@pytest.mark.parametrize("text", ["It broke: \n.", "é", "\u2028", "\x85", "😀"])
def test_error_is_one_event_in_ascii_without_done(text: str) -> None:
    ((name, payload),) = stream_of("own_chunk").render_error(EngineError(text))

    assert name is None
    assert payload.isascii()
    check_error(json.loads(payload)["error"])
    assert json.loads(payload)["error"]["message"] == text


@pytest.mark.parametrize(
    ("options", "default", "placement"),
    [
        (None, "own_chunk", None),
        ({}, "own_chunk", None),
        ({"include_usage": True}, "own_chunk", "own_chunk"),
        ({"include_usage": True}, "last_chunk", "last_chunk"),
        ({}, "last_chunk", "last_chunk"),
        ({"usage_placement": "last_chunk"}, "own_chunk", "last_chunk"),
    ],
)
def test_usage_placement_is_the_requests_or_the_models(options, default, placement) -> None:
    body = {"model": "m", "prompt": "a", "stream": True, "stream_options": options}
    request = CompletionRequest.model_validate(body)

    assert find_usage_placement(request, TextOptions(usage_placement=default)) == placement
