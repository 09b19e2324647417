"""The Vercel AI SDK with its provider for OpenAI-compatible services."""

from collections.abc import Callable

import pytest

from tests.clients.tours import TEXT, Tour, is_weather

pytestmark = [pytest.mark.e2e, pytest.mark.clients]


@pytest.fixture(scope="module")
def tour(node_tour: Callable[[str], Tour]) -> Tour:
    return node_tour("ai_sdk.mjs")


def test_chat_says_the_same_whole_and_streamed(tour: Tour):
    whole, streamed = tour.result("chat"), tour.result("stream")

    assert whole["text"] == streamed["text"] == TEXT
    assert whole["reason"] == streamed["reason"] == "stop"
    assert whole["usage"]["outputTokens"] == streamed["usage"]["outputTokens"] > 0


@pytest.mark.parametrize("step", ["object", "output", "streamed_object"])
def test_a_zod_schema_gives_its_object(tour: Tour, step: str):
    assert is_weather(tour.result(step))


def test_json_without_a_schema_is_taken_too(tour: Tour):
    assert tour.result("object_by_default")["model"] == "smollm2-135m-instruct"


@pytest.mark.parametrize("step", ["named_tool", "required_tool", "streamed_tool"])
def test_a_forced_tool_is_called_and_run(tour: Tour, step: str):
    result = tour.result(step)

    assert [call["name"] for call in result["calls"]] == ["get_time"]
    assert result["results"] == [f"noon in {result['calls'][0]['args']['city']}"]
    assert result["reason"] in ("stop", "tool-calls")


def test_a_tool_s_result_goes_back_into_the_conversation(tour: Tour):
    assert tour.result("tool_loop")["steps"] == 2
    assert tour.result("tool_loop")["text"]


def test_completions_embeddings_and_images_answer(tour: Tour):
    assert tour.result("completion")
    assert tour.result("embeddings") == [384, 384, 384]
    assert tour.result("image") == "image/png"


def test_wrong_uses_raise_the_sdk_s_own_error(tour: Tour):
    assert tour.error("unknown_model")[1] == 404
    assert tour.error("wrong_key")[1] == 401
