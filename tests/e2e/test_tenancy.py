"""Cache isolation, usage records and token limits of keys, with real engines."""

import sqlite3
from typing import Any

import httpx
import openai
import pytest

from tests.helpers.service import Service, wait_until
from tests.helpers.tenants import client, database, make_key

pytestmark = pytest.mark.e2e

LLM, ENCODER, IMAGE_MODEL = "smollm2-135m-instruct", "all-minilm-l6-v2", "shapes"
LONG = "The sea is wide and blue, and the ships upon it are many and small. " * 12


def records(service: Service, key_name: str) -> list[dict[str, Any]]:
    with sqlite3.connect(f"file:{database(service)}?mode=ro", uri=True) as connection:
        connection.row_factory = sqlite3.Row
        query = "SELECT usage.* FROM usage JOIN keys ON usage.key_id = keys.id WHERE name = ?"
        return [dict(row) for row in connection.execute(f"{query} ORDER BY time_s", [key_name])]


def wait_for_records(service: Service, key_name: str, count: int) -> list[dict[str, Any]]:
    wait_until(lambda: len(records(service, key_name)) >= count, timeout_s=10)
    return records(service, key_name)


async def test_cached_prefix_is_shared_within_a_tenant_only(service: Service):
    a, b, second_a = (
        make_key(service, name, "--tenant", tenant)
        for name, tenant in (("cache-a", "a"), ("cache-b", "b"), ("cache-a-2", "a"))
    )

    async def cached(key: str) -> int:
        answer = await client(service, key).completions.create(
            model=LLM, prompt=LONG, max_tokens=1, temperature=0
        )
        return answer.usage.prompt_tokens_details.cached_tokens

    assert [await cached(key) for key in (a, b)] == [0, 0]
    assert all([await cached(key) > 100 for key in (a, second_a, b)])


async def test_usage_records_equal_the_usage_in_the_responses(service: Service):
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
    image = await sdk.images.generate(model=IMAGE_MODEL, prompt="a red circle", n=2)
    whole, streamed, embedded, generated = wait_for_records(service, "meter", 4)

    for record, usage in ((whole, chat.usage), (streamed, last.usage)):
        assert record["prompt_tokens"] == usage.prompt_tokens
        assert record["completion_tokens"] == usage.completion_tokens
        assert record["cached_tokens"] == usage.prompt_tokens_details.cached_tokens
    assert (streamed["user"], streamed["endpoint"]) == ("alice", "chat/completions")
    assert streamed["is_streamed"]
    assert 0 <= streamed["queue_ms"] < streamed["ttft_ms"] < streamed["total_ms"]
    assert embedded["prompt_tokens"] == vectors.usage.prompt_tokens
    assert generated["images"] == len(image.data) == 2
    assert generated["image_steps"] == 2 * 20
    assert generated["image_pixel_steps"] == 2 * 20 * 96 * 96
    assert {each["tenant"] for each in (whole, streamed, embedded, generated)} == {"metered"}


async def test_cancelled_stream_is_recorded_with_the_tokens_generated_so_far(service: Service):
    sdk = client(service, make_key(service, "cancelled-stream"))
    stream = await sdk.completions.create(
        model=LLM, prompt="Once", max_tokens=1000, stream=True, extra_body={"ignore_eos": True}
    )
    received = 0
    async for _ in stream:
        received += 1
        if received == 20:
            break
    await stream.close()
    (record,) = wait_for_records(service, "cancelled-stream", 1)

    assert record["error_code"] == "cancelled"
    assert received <= record["completion_tokens"] < 1000
    assert record["prompt_tokens"] >= 1


async def test_whole_answer_cancelled_by_a_timeout_is_recorded(service: Service):
    key = make_key(service, "cancelled-whole")
    body = {"model": LLM, "prompt": "Once", "max_tokens": 1000, "ignore_eos": True}
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(timeout=3) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post(f"{service.url}/v1/completions", json=body, headers=headers)
    (record,) = wait_for_records(service, "cancelled-whole", 1)

    assert record["error_code"] == "cancelled"
    assert 5 < record["completion_tokens"] < 1000


async def test_invalid_requests_leave_no_record(service: Service):
    sdk = client(service, make_key(service, "invalid"))
    with pytest.raises(openai.BadRequestError):
        await sdk.completions.create(model=LLM, prompt="x " * 9000)
    with pytest.raises(openai.BadRequestError):
        await sdk.completions.create(model=LLM, prompt="x", logit_bias={"99999999": 1})

    await sdk.completions.create(model=LLM, prompt="x", max_tokens=1)
    (record,) = wait_for_records(service, "invalid", 1)  # records are written in order

    assert record["error_code"] is None


async def test_token_limit_counts_the_exact_tokens(service: Service):
    """The prompt counts with its exact number of tokens, not with an estimate."""
    sdk = client(service, make_key(service, "thrifty", "--tpm", "60"))
    first = await sdk.completions.create(model=LLM, prompt="One two three", max_tokens=20)
    # Unused tokens of a reservation are returned when the usage is recorded.
    wait_for_records(service, "thrifty", 1)
    raw = await sdk.completions.with_raw_response.create(
        model=LLM, prompt="One two three", max_tokens=60 - 2 * first.usage.prompt_tokens - 20
    )

    assert int(raw.headers["x-ratelimit-remaining-tokens"]) == 60 - first.usage.total_tokens
