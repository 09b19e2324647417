"""langchain-openai."""

from collections.abc import Callable

import pytest

from tests.clients.tours import TEXT, Tour, is_weather

pytestmark = [pytest.mark.e2e, pytest.mark.clients]


@pytest.fixture(scope="module")
def tour(python_tour: Callable[[str], Tour]) -> Tour:
    return python_tour("langchain_tour.py")


def test_chat_says_the_same_whole_streamed_and_in_a_batch(tour: Tour):
    whole, streamed = tour.result("chat"), tour.result("stream")

    assert whole["text"] == streamed["text"] == TEXT
    assert tour.result("batch") == [TEXT, TEXT]
    assert whole["usage"]["output_tokens"] == streamed["usage"]["output_tokens"]
    assert streamed["chunks"] > 2


def test_logprobs_stand_with_every_token(tour: Tour):
    assert [len(token["top_logprobs"]) for token in tour.result("logprobs")] == [2, 2, 2]


@pytest.mark.parametrize("way", ["by_schema", "by_strict_schema", "by_tool", "in_a_stream"])
def test_structured_output_is_the_pydantic_model(tour: Tour, way: str):
    assert is_weather(tour.result(f"structured_{way}"))


@pytest.mark.parametrize("step", ["named_tool", "any_tool", "strict_tool", "streamed_tool"])
def test_a_forced_call_names_the_tool_and_has_its_arguments(tour: Tour, step: str):
    (call,) = tour.result(step)

    assert call["name"] == "get_time"
    assert call["args"]["city"] in ("Paris", "Rome")
    assert call["id"]


def test_a_tool_s_result_goes_back_into_the_conversation(tour: Tour):
    assert tour.result("tool_result")


def test_embeddings_are_the_same_for_documents_and_queries(tour: Tour):
    one, two, query = tour.result("embeddings")

    assert (len(one), len(two)) == (384, 384)
    assert query == pytest.approx(one, abs=1e-4)


def test_an_unknown_model_raises_not_found(tour: Tour):
    assert tour.error("unknown_model")[1] == 404
