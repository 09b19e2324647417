"""The Vercel AI SDK with its provider for OpenAI-compatible services."""

from collections.abc import Callable

import pytest

from tests.helpers.client_programs import TEXT, ClientRun, is_weather

pytestmark = [pytest.mark.e2e, pytest.mark.clients]


@pytest.fixture(scope="module")
def run(run_node: Callable[[str], ClientRun]) -> ClientRun:
    return run_node("ai_sdk.mjs")


def test_whole_and_streamed_chat_give_the_same_text(run: ClientRun):
    whole, streamed = run.result("chat"), run.result("stream")

    assert whole["text"] == streamed["text"] == TEXT
    assert whole["reason"] == streamed["reason"] == "stop"
    assert whole["usage"]["outputTokens"] == streamed["usage"]["outputTokens"] > 0


@pytest.mark.parametrize("step", ["object", "output", "streamed_object"])
def test_zod_schema_yields_a_matching_object(run: ClientRun, step: str):
    assert is_weather(run.result(step))


def test_json_without_a_schema_is_accepted(run: ClientRun):
    assert run.result("object_by_default")["model"] == "smollm2-135m-instruct"


@pytest.mark.parametrize("step", ["named_tool", "required_tool", "streamed_tool"])
def test_forced_tool_is_called_and_run(run: ClientRun, step: str):
    result = run.result(step)

    assert [call["name"] for call in result["calls"]] == ["get_time"]
    assert result["results"] == [f"noon in {result['calls'][0]['args']['city']}"]
    assert result["reason"] in ("stop", "tool-calls")


def test_tool_result_continues_the_conversation(run: ClientRun):
    assert run.result("tool_loop")["steps"] == 2
    assert run.result("tool_loop")["text"]


def test_completion_embeddings_and_image_return_results(run: ClientRun):
    assert run.result("completion")
    assert run.result("embeddings") == [384, 384, 384]
    assert run.result("image") == "image/png"


def test_unknown_model_and_wrong_key_raise_errors_with_their_status(run: ClientRun):
    assert run.error("unknown_model")[1] == 404
    assert run.error("wrong_key")[1] == 401
