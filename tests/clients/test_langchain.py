"""langchain-openai."""

from collections.abc import Callable

import pytest

from tests.helpers.client_programs import TEXT, ClientRun, is_weather

pytestmark = [pytest.mark.e2e, pytest.mark.clients]


@pytest.fixture(scope="module")
def run(run_python: Callable[[str], ClientRun]) -> ClientRun:
    return run_python("langchain_client.py")


def test_whole_streamed_and_batched_chat_give_the_same_text(run: ClientRun):
    whole, streamed = run.result("chat"), run.result("stream")

    assert whole["text"] == streamed["text"] == TEXT
    assert run.result("batch") == [TEXT, TEXT]
    assert whole["usage"]["output_tokens"] == streamed["usage"]["output_tokens"]
    assert streamed["chunks"] > 2


def test_logprobs_are_returned_for_every_token(run: ClientRun):
    assert [len(token["top_logprobs"]) for token in run.result("logprobs")] == [2, 2, 2]


@pytest.mark.parametrize("way", ["by_schema", "by_strict_schema", "by_tool", "in_a_stream"])
def test_structured_output_matches_the_pydantic_model(run: ClientRun, way: str):
    assert is_weather(run.result(f"structured_{way}"))


@pytest.mark.parametrize("step", ["named_tool", "any_tool", "strict_tool", "streamed_tool"])
def test_forced_call_has_the_name_and_arguments_of_the_tool(run: ClientRun, step: str):
    (call,) = run.result(step)

    assert call["name"] == "get_time"
    assert call["args"]["city"] in ("Paris", "Rome")
    assert call["id"]


def test_tool_result_continues_the_conversation(run: ClientRun):
    assert run.result("tool_result")


def test_document_and_query_of_the_same_text_have_the_same_embedding(run: ClientRun):
    one, two, query = run.result("embeddings")

    assert (len(one), len(two)) == (384, 384)
    assert query == pytest.approx(one, abs=1e-4)


def test_unknown_model_raises_an_error_with_404(run: ClientRun):
    assert run.error("unknown_model")[1] == 404
