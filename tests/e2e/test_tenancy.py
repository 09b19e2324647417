"""What keys, isolation and metering mean for real engines."""

import asyncio
import json
import sqlite3
from typing import Any

import httpx
import pytest

from tests.helpers.service import Service, wait_until
from tests.helpers.tenants import client, database, make_key

pytestmark = pytest.mark.e2e

LLM, ENCODER, PAINTER = "smollm2-135m-instruct", "all-minilm-l6-v2", "shapes"
LONG = "The sea is wide and blue, and the ships upon it are many and small. " * 12


def records(service: Service, key_name: str) -> list[dict[str, Any]]:
    with sqlite3.connect(f"file:{database(service)}?mode=ro", uri=True) as connection:
        connection.row_factory = sqlite3.Row
        query = "SELECT usage.* FROM usage JOIN keys ON usage.key_id = keys.id WHERE name = ?"
        return [dict(row) for row in connection.execute(f"{query} ORDER BY time_s", [key_name])]


def wait_for_records(service: Service, key_name: str, count: int) -> list[dict[str, Any]]:
    wait_until(lambda: len(records(service, key_name)) >= count, timeout_s=10)
    return records(service, key_name)


async def test_one_tenants_cached_prefix_is_no_others(service: Service):
    a, b, a_too = (
        make_key(service, name, "--tenant", tenant)
        for name, tenant in (("cache-a", "a"), ("cache-b", "b"), ("cache-a-too", "a"))
    )

    async def cached(key: str) -> int:
        answer = await client(service, key).completions.create(
            model=LLM, prompt=LONG, max_tokens=1, temperature=0
        )
        return answer.usage.prompt_tokens_details.cached_tokens

    assert [await cached(key) for key in (a, b)] == [0, 0]
    assert all([await cached(key) > 100 for key in (a, a_too, b)])


async def test_the_usage_table_says_what_the_answers_said(service: Service):
    sdk = client(service, make_key(service, "meter", "--tenant", "metered"))
    messages = [{"role": "user", "content": "Name three fruits."}]
    chat = await sdk.chat.completions.create(model=LLM, messages=messages, max_tokens=20, n=2)
    *_, last = [
        chunk
        async for chunk in await sdk.chat.completions.create(
            model=LLM,
            messages=messages,
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
            user="alice",
        )
    ]
    vectors = await sdk.embeddings.create(model=ENCODER, input=["one text", "and another"])
    image = await sdk.images.generate(model=PAINTER, prompt="a red circle", n=2)
    chatted, streamed, embedded, drawn = wait_for_records(service, "meter", 4)

    for record, usage in ((chatted, chat.usage), (streamed, last.usage)):
        assert record["prompt_tokens"] == usage.prompt_tokens
        assert record["completion_tokens"] == usage.completion_tokens
        assert record["cached_tokens"] == usage.prompt_tokens_details.cached_tokens
    assert (streamed["user"], streamed["endpoint"]) == ("alice", "chat/completions")
    assert streamed["is_streamed"]
    assert 0 <= streamed["queue_ms"] < streamed["ttft_ms"] < streamed["total_ms"]
    assert embedded["prompt_tokens"] == vectors.usage.prompt_tokens
    assert drawn["images"] == len(image.data) == 2
    assert drawn["image_steps"] == 2 * 20
    assert drawn["image_pixel_steps"] == 2 * 20 * 96 * 96
    assert {each["tenant"] for each in (chatted, streamed, embedded, drawn)} == {"metered"}


async def test_a_stream_left_half_way_is_counted_to_where_it_got(service: Service):
    sdk = client(service, make_key(service, "leaver"))
    stream = await sdk.completions.create(
        model=LLM, prompt="Once", max_tokens=1000, stream=True, extra_body={"ignore_eos": True}
    )
    received = 0
    async for _ in stream:
        received += 1
        if received == 20:
            break
    await stream.close()
    (record,) = wait_for_records(service, "leaver", 1)

    assert record["error_code"] == "cancelled"
    assert received <= record["completion_tokens"] < 1000
    assert record["prompt_tokens"] >= 1


async def test_an_answer_nobody_waited_for_is_counted_too(service: Service):
    key = make_key(service, "impatient")
    body = {"model": LLM, "prompt": "Once", "max_tokens": 1000, "ignore_eos": True}
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(timeout=3) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post(f"{service.url}/v1/completions", json=body, headers=headers)
    (record,) = wait_for_records(service, "impatient", 1)

    assert record["error_code"] == "cancelled"
    assert 5 < record["completion_tokens"] < 1000


async def test_a_request_that_cannot_begin_leaves_no_record(service: Service):
    key = make_key(service, "mistaken")
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient() as http:
        for body in ({"prompt": "x " * 9000}, {"prompt": "x", "logit_bias": {"99999999": 1}}):
            answer = await http.post(
                f"{service.url}/v1/completions", json={"model": LLM, **body}, headers=headers
            )
            assert answer.status_code == 400, json.dumps(answer.json())
    await asyncio.sleep(0.5)

    assert records(service, "mistaken") == []


async def test_limits_hold_for_real_tokens(service: Service):
    """The prompt has its exact number of tokens when it is counted, not an estimate."""
    sdk = client(service, make_key(service, "thrifty", "--tpm", "60"))
    first = await sdk.completions.create(model=LLM, prompt="One two three", max_tokens=20)
    wait_for_records(service, "thrifty", 1)  # what it did not use comes back a moment later
    raw = await sdk.completions.with_raw_response.create(
        model=LLM, prompt="One two three", max_tokens=60 - 2 * first.usage.prompt_tokens - 20
    )

    assert int(raw.headers["x-ratelimit-remaining-tokens"]) == 60 - first.usage.total_tokens
