"""Sample requests from the documents of four APIs, unchanged except for the model's name."""

from typing import Any

import httpx
import pytest

from tests.helpers.service import Service, sse_events

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
MESSAGES_AS_TEXT = (
    r'[{"role": "system", "content": "You are a helpful assistant."},'
    r'{"role": "user", "content": "Hello!"}]'
)


def ask(service: Service, path: str, body: dict[str, Any]) -> Any:
    with service.client() as client:
        response = client.post(f"/v1/{path}", json=body)
    assert response.status_code == httpx.codes.OK, response.text
    return response.json()


def test_messages_as_a_json_string_are_accepted(service: Service):
    answer = ask(
        service,
        "chat/completions",
        {
            "messages": MESSAGES_AS_TEXT,
            "model": MODEL,
            "frequency_penalty": 0,
            "logit_bias": None,
            "max_tokens": None,
            "n": 1,
            "presence_penalty": 0,
            "stop": None,
            "stream": False,
            "temperature": 1,
            "top_p": 1,
            "user": None,
        },
    )

    assert answer.keys() >= {
        "id",
        "choices",
        "created",
        "model",
        "system_fingerprint",
        "object",
        "usage",
    }
    assert answer["system_fingerprint"].startswith("fp_")
    assert answer["usage"]["prompt_tokens"] > 15


def test_stream_has_usage_on_its_last_chunk_and_loglikelihood_on_its_first(service: Service):
    body = {
        "messages": [{"role": "user", "content": "Hello!"}],
        "model": MODEL,
        "stream": True,
        "frequency_penalty": 0,
        "ignore_eos": True,
        "log_prompt": True,
        "logit_bias": {"5": None, "7": -1.5},
        "loglikelihood": True,
        "logprobs": True,
        "top_logprobs": 2,
        "max_tokens": 8,
        "min_p": 0,
        "n": 1,
        "presence_penalty": 0,
        "repetition_penalty": 1,
        "stop": "never",
        "stream_options": {"usage_placement": "last_chunk"},
        "temperature": 1,
        "top_p": 1,
        "user": "ann",
    }
    with (
        service.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        assert response.headers["x-ignored-parameters"] == "log_prompt"
        *events, done = sse_events(response.iter_lines())
    chunks = [httpx.Response(200, content=event).json() for event in events]

    assert done == "[DONE]"
    assert all(chunk.keys() >= {"choices", "created", "id", "model", "object"} for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1
    likelihood = chunks[0]["choices"][0]["loglikelihood"]
    assert len(likelihood) == chunks[-1]["usage"]["prompt_tokens"] - 1
    assert all(entry["logprob"] <= 0 for entry in likelihood)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["usage"]["completion_tokens"] == 8
    assert all("usage" not in chunk for chunk in chunks[:-1])
    tokens = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert sum(len(each["content"]) for each in tokens if each) == 8


def test_two_prompts_with_two_choices_each_return_four_choices(service: Service):
    answer = ask(
        service,
        "completions",
        {
            "prompt": ["Say this is a test", "Once upon a time"],
            "model": MODEL,
            "n": 2,
            "frequency_penalty": 2,
            "ignore_eos": True,
            "max_tokens": 5,
            "presence_penalty": -2,
            "stream": False,
            "temperature": 0.2,
            "top_p": 0.9,
        },
    )

    assert answer.keys() >= {"id", "model", "choices", "usage", "created", "object"}
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["completion_tokens"] == 20


def test_chat_with_a_newline_as_stop_returns_one_line(service: Service):
    answer = ask(
        service,
        "chat/completions",
        {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": "Please say hello."},
            ],
            "temperature": 0.7,
            "top_p": 0.9,
            "n": 1,
            "stream": False,
            "stop": ["\n"],
            "max_tokens": 1000,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "logit_bias": {},
            "user": "user-123",
        },
    )

    assert answer["choices"][0].keys() >= {"finish_reason", "index", "message"}
    assert "\n" not in answer["choices"][0]["message"]["content"]
    assert answer["usage"].keys() >= {"prompt_tokens", "completion_tokens", "total_tokens"}


def test_completion_with_an_empty_logit_bias_is_accepted(service: Service):
    answer = ask(
        service,
        "completions",
        {
            "model": MODEL,
            "prompt": "Say this is a test",
            "temperature": 0.01,
            "top_p": 0.9,
            "n": 1,
            "stream": False,
            "stop": ["\n"],
            "max_tokens": 1000,
            "presence_penalty": 0,
            "frequency_penalty": 0,
            "logit_bias": {},
            "user": "user-123",
        },
    )

    assert answer["choices"][0].keys() >= {"finish_reason", "index", "text"}
    assert answer.keys() >= {"id", "created", "object", "model", "usage"}


def test_image_size_with_an_asterisk_is_accepted(service: Service):
    answer = ask(
        service,
        "images/generations",
        {
            "model": "shapes",
            "prompt": "A beautiful sunset over the ocean",
            "n": 1,
            "size": "96*96",
            "response_format": "b64_json",
        },
    )

    assert answer["created"] > 0
    assert answer["data"][0]["url"] is None
    assert answer["data"][0]["b64_json"]


def test_embedding_response_has_exactly_the_documented_members(service: Service):
    answer = ask(
        service,
        "embeddings",
        {"input": ["The food was delicious and the waiter."], "model": "all-minilm-l6-v2"},
    )

    assert answer["object"] == "list"
    assert answer["data"][0].keys() == {"index", "object", "embedding"}
    assert answer["usage"].keys() == {"prompt_tokens", "total_tokens"}
