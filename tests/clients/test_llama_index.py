"""llama-index-llms-openai-like."""

from collections.abc import Callable

import pytest

from tests.helpers.client_programs import TEXT, ClientRun, is_weather

pytestmark = [pytest.mark.e2e, pytest.mark.clients]


@pytest.fixture(scope="module")
def run(run_python: Callable[[str], ClientRun]) -> ClientRun:
    return run_python("llama_index_client.py")


def test_whole_and_streamed_completions_give_the_same_text(run: ClientRun):
    streamed = run.result("streamed_complete")

    assert run.result("complete") == streamed["text"] == streamed["joined"]


def test_chat_whole_streamed_and_called_as_completion_gives_the_same_text(run: ClientRun):
    streamed = run.result("streamed_chat")

    assert run.result("chat") == run.result("complete_by_chat") == TEXT
    assert streamed["text"] == streamed["joined"] == TEXT


@pytest.mark.parametrize("step", ["structured_by_schema", "structured_by_tool"])
def test_structured_output_matches_the_pydantic_model(run: ClientRun, step: str):
    assert is_weather(run.result(step))


@pytest.mark.parametrize("step", ["required_tool", "named_tool", "streamed_tool"])
def test_forced_call_has_the_name_and_arguments_of_the_tool(run: ClientRun, step: str):
    (call,) = run.result(step)

    assert call["name"] == "get_time"
    assert call["args"]["city"] in ("Paris", "Rome")


def test_predict_and_call_calls_the_function(run: ClientRun):
    assert run.result("called_tool") in ("noon in Paris", "noon in Rome")


def test_unknown_model_raises_an_error_with_404(run: ClientRun):
    assert run.error("unknown_model")[1] == 404
