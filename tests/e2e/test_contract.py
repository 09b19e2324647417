"""Tools, JSON schemas, log probabilities, choices and stops with a real model."""

import asyncio
import json
from typing import Any

import pytest
from openai import AsyncOpenAI

from deployments.home import find_home
from tests.helpers.service import Service

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Rome", "Oslo"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "note": {"type": "string", "maxLength": 12},
        "is_warm": {"type": "boolean"},
    },
    "required": ["city", "days", "note", "is_warm"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "stop", "parameters": {"type": "object"}}},
]
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}


def is_valid(text: str) -> bool:
    value = json.loads(text)
    return (
        value.keys() == SCHEMA["properties"].keys()
        and value["city"] in ("Paris", "Rome", "Oslo")
        and type(value["days"]) is int
        and 1 <= value["days"] <= 9
        and len(value["note"]) <= 12
        and type(value["is_warm"]) is bool
    )


def client_of(service: Service) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key, max_retries=0)


async def ask_many(service: Service, count: int, **members: Any) -> list[Any]:
    """Send `count` requests at once, too hot for valid JSON without a grammar."""
    async with client_of(service) as client:
        requests = [
            client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": f"How is the weather? {number}"}],
                temperature=1.5,
                seed=number,
                max_tokens=120,
                **members,
            )
            for number in range(count)
        ]
        return list(await asyncio.gather(*requests))


async def test_forced_tool_call_is_valid_50_times_out_of_50(service: Service):
    answers = await ask_many(service, 50, tools=TOOLS, tool_choice=NAMED)
    calls = [answer.choices[0].message.tool_calls[0] for answer in answers]

    assert {call.function.name for call in calls} == {"get_weather"}
    assert all(is_valid(call.function.arguments) for call in calls)
    assert len({call.id for call in calls}) == 50


async def test_json_schema_yields_valid_json_50_times_out_of_50(service: Service):
    schema = {"name": "weather", "strict": True, "schema": SCHEMA}
    answers = await ask_many(
        service, 50, response_format={"type": "json_schema", "json_schema": schema}
    )

    assert all(is_valid(answer.choices[0].message.content) for answer in answers)


async def test_json_object_with_a_schema_yields_valid_json(service: Service):
    answers = await ask_many(service, 5, response_format={"type": "json_object", "schema": SCHEMA})

    assert all(is_valid(answer.choices[0].message.content) for answer in answers)


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_streamed_tool_call_equals_the_whole_one(service: Service, choice: Any):
    client = service.openai()
    members: Any = {
        "model": MODEL,
        "messages": QUESTION,
        "temperature": 0,
        "tools": TOOLS[:1],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "max_tokens": 120,
    }
    whole = client.chat.completions.create(**members).choices[0]
    chunks = list(client.chat.completions.create(**members, stream=True))
    pieces = [
        call
        for chunk in chunks
        for call in chunk.choices[0].delta.tool_calls or ()
        if call.index == 0
    ]

    assert (pieces[0].function.name, pieces[0].type) == ("get_weather", "function")
    assert [piece.id for piece in pieces if piece.id] == [pieces[0].id]
    arguments = "".join(piece.function.arguments or "" for piece in pieces)
    called = whole.message.tool_calls[0].function
    assert (json.loads(arguments), called.name) == (json.loads(called.arguments), "get_weather")
    assert is_valid(arguments)
    reason = "tool_calls" if choice == "required" else "stop"
    assert whole.finish_reason == chunks[-1].choices[0].finish_reason == reason


def test_tool_calls_completed_before_max_tokens_are_kept(service: Service):
    """The small model repeats tool calls until `max_tokens` stops it."""
    members: Any = {
        "model": MODEL,
        "messages": QUESTION,
        "temperature": 0,
        "tools": TOOLS[:1],
        "tool_choice": "required",
        "max_tokens": 150,
    }
    client = service.openai()
    whole = client.chat.completions.create(**members).choices[0]
    pieces: dict[int, str] = {}
    for chunk in client.chat.completions.create(**members, stream=True):
        for call in chunk.choices[0].delta.tool_calls or ():
            pieces[call.index] = pieces.get(call.index, "") + (call.function.arguments or "")

    assert [call.function.arguments for call in whole.message.tool_calls] == list(pieces.values())
    assert is_valid(pieces[0])


def test_log_probabilities_match_those_of_transformers(service: Service):
    """For prompt and answer, within 0.05 per token on average, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = find_home() / "models" / "smollm2"
    answer = service.openai().chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        temperature=0,
        logprobs=True,
        top_logprobs=1,
        extra_body={"loglikelihood": True},
    )
    choice = answer.choices[0]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    prompt = tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_dict=False, tokenize=True
    )
    answer_ids = [*tokenizer.encode(choice.message.content), tokenizer.eos_token_id]
    ids = torch.tensor([[*prompt, *answer_ids]])
    with torch.inference_mode():
        logits = model(ids).logits[0, :-1].float().log_softmax(-1)  # (T - 1, V)
    expected = logits.gather(1, ids[0, 1:, None])[:, 0].tolist()
    of_prompt = [entry["logprob"] for entry in choice.model_extra["loglikelihood"]]
    of_answer = [entry.logprob for entry in choice.logprobs.content]

    assert len(of_prompt) == len(prompt) - 1 == answer.usage.prompt_tokens - 1
    assert len(of_answer) == len(answer_ids) == answer.usage.completion_tokens
    assert abs(sum(of_prompt) - sum(expected[: len(of_prompt)])) / len(of_prompt) < 0.05
    assert abs(sum(of_answer) - sum(expected[len(of_prompt) :])) / len(of_answer) < 0.05
    text = b"".join(bytes(entry.bytes) for entry in choice.logprobs.content[:-1])
    assert text.decode() == choice.message.content


def test_echo_with_max_tokens_0_returns_logprobs_of_the_prompt(service: Service):
    answer = service.openai().completions.create(
        model=MODEL, prompt="The capital of France", echo=True, logprobs=1, max_tokens=0
    )
    logprobs = answer.choices[0].logprobs

    assert answer.choices[0].text == "The capital of France" == "".join(logprobs.tokens)
    assert (logprobs.token_logprobs[0], answer.usage.completion_tokens) == (None, 0)
    assert logprobs.text_offset == [0, 3, 11, 14]


def test_three_streamed_choices_interleave_and_equal_the_whole_ones(service: Service):
    members: Any = {
        "model": MODEL,
        "messages": QUESTION,
        "n": 3,
        "temperature": 1.0,
        "seed": 7,
        "max_tokens": 30,
    }
    client = service.openai()
    whole = client.chat.completions.create(**members)
    order: list[int] = []
    texts = ["", "", ""]
    for chunk in client.chat.completions.create(**members, stream=True):
        choice = chunk.choices[0]
        order.append(choice.index)
        texts[choice.index] += choice.delta.content or ""

    assert texts == [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 3
    assert order != sorted(order)


STOP_WITHIN_TOKENS: Any = {
    "model": MODEL,
    "messages": QUESTION,
    "temperature": 0,
    "stop": "tal of Fra",
}
"""The answer is "The capital of France is Paris."; the stop begins and ends within tokens."""


def test_stop_within_tokens_ends_a_whole_answer_before_the_stop(service: Service):
    answer = service.openai().chat.completions.create(**STOP_WITHIN_TOKENS)

    assert answer.choices[0].message.content == "The capi"
    assert answer.choices[0].finish_reason == "stop"


def test_stop_within_tokens_never_appears_in_a_stream(service: Service):
    stream = service.openai().chat.completions.create(**STOP_WITHIN_TOKENS, stream=True)
    texts = [chunk.choices[0].delta.content or "" for chunk in stream]

    assert not any("tal" in "".join(texts[: n + 1]) for n in range(len(texts)))
    assert "".join(texts) == "The capi"


def test_streamed_characters_of_several_tokens_are_whole(service: Service):
    """The model can only repeat the bytes of characters that are several tokens each."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(find_home() / "models" / "smollm2")
    ids = tokenizer.encode("🦜é漢", add_special_tokens=False)
    client = service.openai()
    members: Any = {
        "model": MODEL,
        "prompt": "🦜é漢 🦜é漢 🦜é漢",
        "temperature": 0,
        "max_tokens": 24,
        "extra_body": {"allowed_token_ids": ids, "ignore_eos": True},
    }
    whole = client.completions.create(**members).choices[0].text
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**members, stream=True)]

    assert len(ids) > 4
    assert "".join(pieces) == whole
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces[:-1])
