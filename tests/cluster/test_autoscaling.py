"""Replicas of an image model follow the steps that are to take, not the requests."""

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


def painters() -> dict[str, Any]:
    added = application("painters", "diffusion", "Diffusion")
    added["deployments"][0]["autoscaling_config"] = AUTOSCALING
    return added


async def draw(service: Service, clients: int, seconds: float, **parameters: int) -> int:
    """Let so many clients ask again and again; gives the most replicas that were seen."""
    body = {"model": "painters", "prompt": "x", "size": "16x16", **parameters}
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
            most = max(most, len(pids.get("painters", ())))
            await asyncio.sleep(0.2)
        await asking
    return most


async def test_many_steps_bring_replicas_and_many_requests_do_not(service: Service):
    """From none to one for the first request, whatever it asks for."""
    service.deploy([*APPLICATIONS, painters()])
    wait_until(lambda: service.ready().get("painters", {}).get("state") == "idle", 60)
    await draw(service, 1, 0.1)  # who comes now waits; the others would be told to come again
    wait_until(lambda: service.ready()["painters"]["state"] == "ready", 60)

    for_many_requests = await draw(service, 60, 4, num_inference_steps=1)
    for_many_steps = await draw(service, 10, 30, num_inference_steps=200, n=10)
    service.deploy(APPLICATIONS)
    wait_until(lambda: "painters" not in service.ready(), 30)  # Serve takes half a minute to end it

    assert (for_many_requests, for_many_steps) == (1, 2)
