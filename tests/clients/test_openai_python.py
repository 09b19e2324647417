"""The official Python SDK and its helpers: requests are accepted, and responses parse."""

import asyncio
import json
from typing import Annotated, Any, Literal

import openai
import pytest
from openai import AsyncOpenAI, OpenAI, pydantic_function_tool
from pydantic import BaseModel, Field

from tests.helpers.service import Service

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 128}
CHAT = GREEDY | {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
ASK_FOR_WEATHER = GREEDY | {"messages": [{"role": "user", "content": "How is it in Paris?"}]}


class Weather(BaseModel):
    """Bounded types only, so that even a small model's answer ends."""

    sky: Literal["sunny", "cloudy", "rainy"]
    is_cold: bool
    degrees: Annotated[int, Field(ge=0, le=40)]


class GetWeather(BaseModel):
    """Look up the weather of a city."""

    city: Literal["Paris", "Rome"]
    is_metric: bool


class GetTime(BaseModel):
    """Look up the time in a city."""

    city: Literal["Paris", "Rome"]


TOOLS = [pydantic_function_tool(GetWeather), pydantic_function_tool(GetTime)]
NAMED = {"type": "function", "function": {"name": "GetTime"}}


@pytest.fixture
def client(service: Service) -> OpenAI:
    return service.openai()


async def ask_async(service: Service) -> tuple[str, str]:
    """Ask `CHAT` whole and streamed at the same time; return both texts."""
    url = f"{service.url}/v1"
    async with AsyncOpenAI(base_url=url, api_key=service.key, max_retries=0) as client:

        async def ask_streamed() -> str:
            stream = await client.chat.completions.create(**CHAT, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        whole, streamed = await asyncio.gather(
            client.chat.completions.create(**CHAT), ask_streamed()
        )
        return whole.choices[0].message.content or "", streamed


async def test_sync_async_and_streamed_chat_give_the_same_text(service: Service, client: OpenAI):
    whole = client.chat.completions.create(**CHAT).choices[0].message.content
    chunks = client.chat.completions.create(**CHAT, stream=True)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    assert whole
    assert streamed == whole
    assert await ask_async(service) == (whole, whole)


def test_stream_helper_emits_content_events_and_joins_them(client: OpenAI):
    whole = client.chat.completions.create(**CHAT)
    with client.chat.completions.stream(**CHAT, stream_options={"include_usage": True}) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    deltas = [event.delta for event in events if event.type == "content.delta"]
    (done,) = [event for event in events if event.type == "content.done"]

    assert "".join(deltas) == done.content == final.choices[0].message.content
    assert done.content == whole.choices[0].message.content
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason
    assert final.usage == whole.usage


def test_parse_returns_the_pydantic_model(client: OpenAI):
    answer = client.chat.completions.parse(**ASK_FOR_WEATHER, response_format=Weather)

    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Weather)


def test_stream_helper_parses_the_same_object_as_parse(client: OpenAI):
    whole = client.chat.completions.parse(**ASK_FOR_WEATHER, response_format=Weather)
    with client.chat.completions.stream(**ASK_FOR_WEATHER, response_format=Weather) as stream:
        (done,) = [event for event in stream if event.type == "content.done"]

    assert done.parsed == whole.choices[0].message.parsed


def test_plain_json_schema_constrains_the_answer(client: OpenAI):
    schema = {
        "type": "object",
        "properties": {"is_cold": {"type": "boolean"}},
        "required": ["is_cold"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        **ASK_FOR_WEATHER,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "weather", "schema": schema, "strict": True},
        },
    )

    assert answer.choices[0].message.content.replace(" ", "") in (
        '{"is_cold":true}',
        '{"is_cold":false}',
    )


@pytest.mark.parametrize("choice", [NAMED, "required"], ids=["named", "required"])
def test_forced_tool_call_is_parsed_with_the_model_of_its_tool(client: OpenAI, choice: Any):
    answer = client.chat.completions.parse(**ASK_FOR_WEATHER, tools=TOOLS, tool_choice=choice)
    call = answer.choices[0].message.tool_calls[0]
    models = {"GetWeather": GetWeather, "GetTime": GetTime}

    assert isinstance(call.function.parsed_arguments, models[call.function.name])
    assert call.function.name == "GetTime" or choice == "required"
    assert call.id
    assert answer.choices[0].finish_reason in ("stop", "tool_calls")


@pytest.mark.parametrize("choice", [NAMED, "required"], ids=["named", "required"])
def test_streamed_tool_call_equals_the_whole_one(client: OpenAI, choice: Any):
    request = ASK_FOR_WEATHER | {"tools": TOOLS, "tool_choice": choice}
    whole = client.chat.completions.create(**request).choices[0]
    with client.chat.completions.stream(**request) as stream:
        events = list(stream)
        streamed = stream.get_final_completion().choices[0]
    kind = "tool_calls.function.arguments"
    done = [event for event in events if event.type == f"{kind}.done"]
    deltas = [event.arguments_delta for event in events if event.type == f"{kind}.delta"]

    assert [(event.name, json.loads(event.arguments)) for event in done] == [
        (call.function.name, json.loads(call.function.arguments))
        for call in whole.message.tool_calls
    ]
    assert "".join(deltas) == "".join(event.arguments for event in done)
    assert len(streamed.message.tool_calls) == len(whole.message.tool_calls)
    assert streamed.finish_reason == whole.finish_reason


def test_tool_result_continues_the_conversation(client: OpenAI):
    asked = client.chat.completions.create(**ASK_FOR_WEATHER, tools=TOOLS, tool_choice=NAMED)
    message = asked.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "noon"}
    answer = client.chat.completions.create(
        **ASK_FOR_WEATHER | {"messages": [*ASK_FOR_WEATHER["messages"], message, result]},
        tools=TOOLS,
        tool_choice="none",
    )

    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls


def test_logprobs_are_returned_for_every_token_whole_and_streamed(client: OpenAI):
    request = CHAT | {"logprobs": True, "top_logprobs": 2, "max_tokens": 4}
    whole = client.chat.completions.create(**request).choices[0]
    with client.chat.completions.stream(**request) as stream:
        (done,) = [event for event in stream if event.type == "logprobs.content.done"]

    assert len(whole.logprobs.content) == 4
    assert "".join(token.token for token in whole.logprobs.content) == whole.message.content
    assert all(token.top_logprobs[0].token == token.token for token in whole.logprobs.content)
    assert [token.token for token in done.content] == [
        token.token for token in whole.logprobs.content
    ]


def test_completion_echoes_its_prompt_with_logprobs(client: OpenAI):
    prompt = "The capital of France is"
    choice = client.completions.create(
        model=MODEL, prompt=prompt, echo=True, logprobs=1, max_tokens=2, temperature=0
    ).choices[0]

    assert choice.text.startswith(prompt)
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in choice.logprobs.token_logprobs[1:])
    assert choice.logprobs.text_offset[-1] < len(choice.text)


def test_all_models_are_listed(client: OpenAI):
    assert [model.id for model in client.models.list()] == [MODEL, "all-minilm-l6-v2", "shapes"]


def test_wrong_requests_raise_the_matching_sdk_error(client: OpenAI):
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(**CHAT, extra_body={"no_such_thing": 1})
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**CHAT | {"model": "gpt-9"})
    with pytest.raises(openai.AuthenticationError) as unauthenticated:
        client.with_options(api_key="sk-wrong").models.list()

    assert (bad.value.param, bad.value.code) == ("no_such_thing", "unknown_parameter")
    assert missing.value.code == "model_not_found"
    assert unauthenticated.value.code == "invalid_api_key"
    assert bad.value.request_id
