"""Chat and completions by SmolLM2, through the official SDK."""

import asyncio
import os
import signal
import time
from collections.abc import Callable

import httpx
import pytest
from openai import AsyncOpenAI

from tests.helpers.service import Service, requests_in, wait_until
from tests.helpers.streams import StreamResult, connect_and_disconnect, is_broken_off, read_all

pytestmark = pytest.mark.e2e

MODEL = "smollm2-135m-instruct"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def test_chat_knows_the_capital_of_france(service: Service):
    answer = service.openai().chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)

    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_model_card_shows_kind_and_limits(service: Service):
    card = {"kind": "llm", "max_tokens": 4096, "reads_pictures": False}

    # The ingress fetches a model's limits once the model is ready; the card shows them soon after.
    retrieve = service.openai().models.retrieve
    wait_until(lambda: retrieve(MODEL).model_extra["triptych"] == card, timeout_s=10)


def test_streamed_chat_equals_the_whole_one(service: Service):
    client = service.openai()
    whole = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]

    assert "".join(texts) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


async def test_async_client_streams_chat(service: Service):
    async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=0, stream=True
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert "Paris" in text


def test_completions_accept_strings_and_token_ids(service: Service):
    client = service.openai()
    by_text = client.completions.create(
        model=MODEL, prompt=["Once upon a time", "The sun"], n=2, max_tokens=4, seed=1
    )
    by_ids = client.completions.create(model=MODEL, prompt=[504, 2365, 355], max_tokens=4)

    assert [choice.index for choice in by_text.choices] == [0, 1, 2, 3]
    assert by_text.usage.completion_tokens == 16
    assert (by_ids.usage.prompt_tokens, by_ids.usage.completion_tokens) == (3, 4)


def test_max_tokens_and_stop_end_the_answer(service: Service):
    client = service.openai()
    short = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, max_completion_tokens=2
    )
    stopped = client.chat.completions.create(
        model=MODEL, messages=QUESTION, temperature=0, stop=[" France"]
    )

    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 2)
    assert stopped.choices[0].message.content == "The capital of"
    assert stopped.choices[0].finish_reason == "stop"


def test_ignore_eos_generates_max_tokens(service: Service):
    answer = service.openai().chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        temperature=0,
        max_tokens=40,
        extra_body={"ignore_eos": True},
    )

    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (40, "length")


def test_same_seed_yields_the_same_text_and_another_seed_another(service: Service):
    texts = [
        service.openai()
        .chat.completions.create(
            model=MODEL, messages=QUESTION, temperature=1.5, seed=seed, max_tokens=24
        )
        .choices[0]
        .message.content
        for seed in (5, 5, 6)
    ]

    assert texts[0] == texts[1] != texts[2]


def test_disconnects_free_the_engine_within_two_seconds(service: Service):
    """Twenty streams in a row, then one whole answer; the requests are counted by vLLM."""
    story = [{"role": "user", "content": "Tell a very long story about the sea."}]
    body = {"model": MODEL, "messages": story, "stream": True, "max_tokens": 3000}
    with service.watching(MODEL) as stats, service.client() as client:
        for _ in range(20):
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.iter_lines()
                [next(lines) for _ in range(6)]
        after_streams_s = wait_until(lambda: requests_in(stats()[MODEL]) == [0], timeout_s=15)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/chat/completions", json=body | {"stream": False}, timeout=1)
        after_whole_s = wait_until(lambda: requests_in(stats()[MODEL]) == [0], timeout_s=15)

    assert after_streams_s < 2
    assert after_whole_s < 2


async def test_500_clients_that_disconnect_at_once_leave_no_request_in_the_engine(service: Service):
    with service.watching(MODEL) as stats:
        await connect_and_disconnect(service, 500, model=MODEL, max_tokens=500)
        freed_after_s = await asyncio.to_thread(
            wait_until, lambda: requests_in(stats()[MODEL]) == [0], 20
        )
        results = await read_all(service, [{"model": MODEL, "max_tokens": 2}] * 100)

    assert freed_after_s < 5
    assert all(result.is_done and not result.errors for result in results)


async def read_until_killed(
    service: Service, kill: Callable[[], None]
) -> tuple[list[StreamResult], float]:
    """Read twenty streams and call `kill` once vLLM runs all; also return the time of the kill."""
    with service.watching(MODEL) as stats:
        request = {"model": MODEL, "max_tokens": 2000, "ignore_eos": True}
        reading = asyncio.ensure_future(read_all(service, [request] * 20))
        await asyncio.to_thread(wait_until, lambda: requests_in(stats()[MODEL]) == [20], 20)
        await asyncio.to_thread(kill)
        killed_at_s = time.monotonic()
        await asyncio.to_thread(
            wait_until, lambda: all(each["requests"] == 0 for each in stats()[MODEL]), 2
        )
        return await reading, killed_at_s


async def test_killed_ingress_leaves_no_request_in_the_engine(service: Service):
    (pid,) = service.replica_pids()["ingress"]

    results, _ = await read_until_killed(service, lambda: os.kill(pid, signal.SIGKILL))
    await asyncio.to_thread(wait_until, lambda: is_ready(service), 60)

    assert all(result.is_cut and not result.is_done for result in results)


async def test_killed_engine_ends_its_streams_with_an_error(service: Service):
    (pid,) = service.replica_pids()[MODEL]

    results, killed_at_s = await read_until_killed(service, lambda: os.kill(pid, signal.SIGKILL))
    await asyncio.to_thread(
        wait_until, lambda: service.replica_pids()[MODEL] not in ([], [pid]), 180
    )
    await asyncio.to_thread(wait_until, lambda: is_ready(service), 60)

    assert all(is_broken_off(result) for result in results)
    assert max(result.ended_at_s for result in results) - killed_at_s < 2


def is_ready(service: Service) -> bool:
    try:
        return httpx.get(f"{service.url}/ready").status_code == 200
    except httpx.TransportError:
        return False
