"""The official SDK for Node."""

from collections.abc import Callable

import pytest

from tests.helpers.client_programs import TEXT, ClientRun, is_weather

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def run(run_node: Callable[[str], ClientRun]) -> ClientRun:
    return run_node("openai.mjs")


def test_whole_streamed_and_stream_helper_chat_give_the_same_text(run: ClientRun):
    stream_helper = run.result("stream_helper")

    assert run.result("chat")["text"] == TEXT
    assert run.result("stream") == run.result("chat")
    assert stream_helper["text"] == "".join(stream_helper["deltas"]) == TEXT


@pytest.mark.parametrize("step", ["parse", "streamed_parse"])
def test_zod_schema_yields_a_matching_object(run: ClientRun, step: str):
    assert is_weather(run.result(step))


@pytest.mark.parametrize("step", ["named_tool", "required_tool", "streamed_tool"])
def test_forced_call_has_the_name_and_arguments_of_the_tool(run: ClientRun, step: str):
    (call,) = run.result(step)

    assert call["name"] == "get_time"
    assert call["args"]["city"] in ("Paris", "Rome")
    assert call["reason"] in ("stop", "tool_calls")
    assert call["id"]


def test_run_tools_calls_the_function(run: ClientRun):
    assert run.result("run_tools") in ("noon in Paris", "noon in Rome")


def test_completion_and_model_list_return_results(run: ClientRun):
    assert run.result("completion")
    assert run.result("models") == ["smollm2-135m-instruct", "all-minilm-l6-v2", "shapes"]


def test_wrong_requests_raise_the_matching_sdk_error(run: ClientRun):
    assert run.error("unknown_parameter") == ("BadRequestError", 400)
    assert run.error("unknown_model") == ("NotFoundError", 404)
    assert run.error("wrong_key") == ("AuthenticationError", 401)
