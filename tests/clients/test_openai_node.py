"""The official SDK for Node."""

from collections.abc import Callable

import pytest

from tests.clients.tours import TEXT, Tour, is_weather

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def tour(node_tour: Callable[[str], Tour]) -> Tour:
    return node_tour("openai.mjs")


def test_chat_says_the_same_whole_streamed_and_through_the_stream_helper(tour: Tour):
    helped = tour.result("stream_helper")

    assert tour.result("chat")["text"] == TEXT
    assert tour.result("stream") == tour.result("chat")
    assert helped["text"] == "".join(helped["deltas"]) == TEXT


@pytest.mark.parametrize("step", ["parse", "streamed_parse"])
def test_a_zod_schema_gives_its_object(tour: Tour, step: str):
    assert is_weather(tour.result(step))


@pytest.mark.parametrize("step", ["named_tool", "required_tool", "streamed_tool"])
def test_a_forced_call_names_the_tool_and_has_its_arguments(tour: Tour, step: str):
    (call,) = tour.result(step)

    assert call["name"] == "get_time"
    assert call["args"]["city"] in ("Paris", "Rome")
    assert call["reason"] in ("stop", "tool_calls")
    assert call["id"]


def test_run_tools_calls_the_function(tour: Tour):
    assert tour.result("run_tools") in ("noon in Paris", "noon in Rome")


def test_completions_and_models_answer(tour: Tour):
    assert tour.result("completion")
    assert tour.result("models") == ["smollm2-135m-instruct", "all-minilm-l6-v2", "shapes"]


def test_wrong_uses_raise_the_sdk_s_own_errors(tour: Tour):
    assert tour.error("unknown_parameter") == ("BadRequestError", 400)
    assert tour.error("unknown_model") == ("NotFoundError", 404)
    assert tour.error("wrong_key") == ("AuthenticationError", 401)
