"""Replicas follow the pending steps of images and the tokens of texts, not the requests."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import APPLICATIONS, application
from tests.helpers.service import Service, wait_until

pytestmark = pytest.mark.cluster

TARGET_STEPS = 4000
AUTOSCALING = {
    "min_replicas": 0,
    "max_replicas": 2,
    "look_back_period_s": 1.5,
    "metrics_interval_s": 0.5,
    "upscale_delay_s": 0,
    "downscale_delay_s": 300,
    "policy": {
        "policy_function": "deployments.autoscaling:QueuedImageSteps",
        "policy_kwargs": {"target_steps": TARGET_STEPS},
    },
}


def scaled_model() -> dict[str, Any]:
    added = application("scaled", "diffusion", "Diffusion")
    added["deployments"][0]["autoscaling_config"] = AUTOSCALING
    return added


async def generate_images(service: Service, clients: int, seconds: float, **parameters: int) -> int:
    """Keep `clients` clients busy for `seconds`; returns the largest number of replicas seen."""
    body = {"model": "scaled", "prompt": "x", "size": "16x16", **parameters}
    ends_s = time.monotonic() + seconds
    most = 0
    headers = {"authorization": f"Bearer {service.key}"}
    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=60) as client:

        async def ask() -> None:
            while time.monotonic() < ends_s and most < AUTOSCALING["max_replicas"]:
                answer = await client.post("/v1/images/generations", json=body)
                answer.raise_for_status()

        asking = asyncio.gather(*(ask() for _ in range(clients)))
        while not asking.done():
            pids = await asyncio.to_thread(service.replica_pids)
            most = max(most, len(pids.get("scaled", ())))
            await asyncio.sleep(0.2)
        await asking
    return most


async def test_replicas_scale_with_pending_steps_and_not_with_requests(service: Service):
    """The first request starts the first replica, however few steps it has."""
    service.deploy([*APPLICATIONS, scaled_model()])
    wait_until(lambda: service.ready().get("scaled", {}).get("state") == "idle", 60)
    await generate_images(service, 1, 0.1)  # this request waits; while starting, others get 503
    wait_until(lambda: service.ready()["scaled"]["state"] == "ready", 60)

    for_many_requests = await generate_images(service, 60, 4, num_inference_steps=1)
    for_many_steps = await generate_images(service, 10, 30, num_inference_steps=200, n=10)
    service.deploy(APPLICATIONS)
    wait_until(
        lambda: "scaled" not in service.ready(), 30
    )  # Serve takes half a minute to stop a replica

    assert (for_many_requests, for_many_steps) == (1, 2)


def scaled_llm(target_tokens: int) -> dict[str, Any]:
    added = application("scaled-llm", "llm", "LLM", engine={"tokens_per_s": 20})
    policy = {
        "policy_function": "deployments.autoscaling:QueuedTokens",
        "policy_kwargs": {"target_tokens": target_tokens},
    }
    added["deployments"][0]["autoscaling_config"] = {
        **AUTOSCALING,
        "min_replicas": 1,
        "policy": policy,
    }
    return added


async def test_replicas_of_an_llm_scale_with_tokens_and_not_with_requests(service: Service):
    """Five greetings are some 500 tokens, one long prompt is more than 2000."""
    service.deploy([*APPLICATIONS, scaled_llm(target_tokens=1000)])
    wait_until(lambda: service.ready().get("scaled-llm", {}).get("state") == "ready", 60)
    headers = {"authorization": f"Bearer {service.key}"}

    def count_replicas() -> int:
        return len(service.replica_pids().get("scaled-llm", ()))

    async def ask(client: httpx.AsyncClient, words: int, tokens: int) -> None:
        body = {"model": "scaled-llm", "prompt": "a " * words, "max_tokens": tokens}
        (await client.post("/v1/completions", json=body)).raise_for_status()

    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=60) as client:
        await asyncio.gather(*(ask(client, 5, 100) for _ in range(5)))
        for_many_requests = await asyncio.to_thread(count_replicas)
        asking = asyncio.create_task(ask(client, 2000, 500))
        await asyncio.to_thread(wait_until, lambda: count_replicas() == 2, 25)
        await asking
    service.deploy(APPLICATIONS)
    wait_until(lambda: "scaled-llm" not in service.ready(), 30)

    assert for_many_requests == 1
