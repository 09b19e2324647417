"""llama-index-llms-openai-like."""

from collections.abc import Callable

import pytest

from tests.clients.tours import TEXT, Tour, is_weather

pytestmark = [pytest.mark.e2e, pytest.mark.clients]


@pytest.fixture(scope="module")
def tour(python_tour: Callable[[str], Tour]) -> Tour:
    return python_tour("llama_index_tour.py")


def test_a_completion_is_the_same_whole_and_streamed(tour: Tour):
    streamed = tour.result("streamed_complete")

    assert tour.result("complete") == streamed["text"] == streamed["joined"]


def test_chat_says_the_same_whole_streamed_and_as_a_completion(tour: Tour):
    streamed = tour.result("streamed_chat")

    assert tour.result("chat") == tour.result("complete_by_chat") == TEXT
    assert streamed["text"] == streamed["joined"] == TEXT


@pytest.mark.parametrize("step", ["structured_by_schema", "structured_by_tool"])
def test_structured_output_is_the_pydantic_model(tour: Tour, step: str):
    assert is_weather(tour.result(step))


@pytest.mark.parametrize("step", ["required_tool", "named_tool", "streamed_tool"])
def test_a_forced_call_names_the_tool_and_has_its_arguments(tour: Tour, step: str):
    (call,) = tour.result(step)

    assert call["name"] == "get_time"
    assert call["args"]["city"] in ("Paris", "Rome")


def test_predict_and_call_calls_the_function(tour: Tour):
    assert tour.result("called_tool") in ("noon in Paris", "noon in Rome")


def test_an_unknown_model_raises_not_found(tour: Tour):
    assert tour.error("unknown_model")[1] == 404
