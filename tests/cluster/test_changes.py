"""Deploys, scaling, lost replicas and a stop under load: no stream is cut.

No request is refused either, except while the service stops.
"""

import asyncio
import collections
import contextlib
import copy
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.cluster.conftest import APPLICATIONS, LEDGER, application
from tests.helpers.service import Service, running, wait_until
from tests.helpers.streams import StreamResult, is_broken_off, new_client, read, read_all

pytestmark = pytest.mark.cluster

REQUESTS_PER_S = 5
TOKENS_PER_S = 20
DEPLOY_TIMEOUT_S = 90


def configure(
    ingress_replicas: int = 1, narrow_replicas: int = 1, **args: Any
) -> list[dict[str, Any]]:
    """The configuration: a fake LLM with two replicas, one of two slots, and one at zero."""
    ingress = {
        **APPLICATIONS[0],
        "deployments": [
            {
                "name": "Ingress",
                "num_replicas": ingress_replicas,
                "ray_actor_options": {"num_cpus": 0.1},
            }
        ],
    }
    echo = application("echo", "llm", "LLM", **{"engine": {"tokens_per_s": TOKENS_PER_S}, **args})
    echo["deployments"][0]["num_replicas"] = 2
    narrow = application(
        "narrow", "llm", "LLM", engine={"tokens_per_s": TOKENS_PER_S, "max_num_seqs": 2}
    )
    narrow["deployments"][0]["num_replicas"] = narrow_replicas
    sleeper = application("sleeper", "llm", "LLM", engine={"tokens_per_s": TOKENS_PER_S})
    sleeper["deployments"][0]["autoscaling_config"] = {
        **{"min_replicas": 0, "max_replicas": 1, "target_ongoing_requests": 10},
        **{"upscale_delay_s": 0, "metrics_interval_s": 0.5, "look_back_period_s": 1},
    }
    return [ingress, echo, narrow, sleeper, LEDGER]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running({"applications": configure()}, tmp_path_factory.mktemp("home")) as service:
        yield service


class Traffic:
    """Short requests at a steady rate, and what became of them."""

    def __init__(self) -> None:
        self.answers: collections.Counter[str] = collections.Counter()


@contextlib.asynccontextmanager
async def traffic(service: Service) -> AsyncIterator[Traffic]:
    """Send requests during the block; all are answered when it has ended."""
    sent = Traffic()

    async def ask(client: httpx.AsyncClient) -> None:
        body = {"model": "echo", "prompt": "a b c", "max_tokens": 3}
        try:
            answer = await client.post("/v1/completions", json=body)
            sent.answers[str(answer.status_code)] += 1
        except httpx.TransportError as error:
            sent.answers[type(error).__name__] += 1

    async def keep_asking(client: httpx.AsyncClient, group: asyncio.TaskGroup) -> None:
        while True:
            group.create_task(ask(client))
            await asyncio.sleep(1 / REQUESTS_PER_S)

    async with new_client(service) as client, asyncio.TaskGroup() as group:
        asking = group.create_task(keep_asking(client, group))
        try:
            yield sent
        finally:
            asking.cancel()


def pids(service: Service) -> set[int]:
    return set(service.replica_pids()["echo"])


def status(service: Service) -> str:
    return str(service.applications()["echo"]["status"])


def deploy(service: Service, applications: list[dict[str, Any]]) -> None:
    """Deploy, and wait until two replicas of the new version, and no others, run."""
    before = pids(service)
    service.deploy(applications)
    wait_until(lambda: len(pids(service)) == 2 and not pids(service) & before, DEPLOY_TIMEOUT_S)
    wait_until(lambda: status(service) == "RUNNING", DEPLOY_TIMEOUT_S)


async def test_deploy_of_changed_arguments_refuses_no_request_and_cuts_no_stream(
    service: Service,
) -> None:
    streams = asyncio.create_task(read_all(service, [{"max_tokens": 25 * TOKENS_PER_S}] * 10))
    async with traffic(service) as sent:
        await asyncio.sleep(1)
        await asyncio.to_thread(deploy, service, configure(default_max_tokens=50))
        await asyncio.sleep(3)

    assert set(sent.answers) == {"200"}
    assert all(result.is_complete(25 * TOKENS_PER_S) for result in await streams)


def configure_live(service: Service, ingress: Any, echo: Any) -> list[dict[str, Any]]:
    """The running configuration with live settings."""
    applications = copy.deepcopy(service.config["applications"])
    for each, user_config in zip(applications, (ingress, echo), strict=False):
        each["deployments"][0]["user_config"] = user_config
    return applications


async def test_live_settings_change_without_a_restart(service: Service) -> None:
    def look() -> tuple[str, int]:
        """What two choices come to, and the tokens of an answer without `max_tokens`."""
        body = {"model": "echo", "prompt": "a b c"}
        with service.client() as client:
            many = client.post("/v1/completions", json={**body, "n": 2, "max_tokens": 1})
            answer = client.post("/v1/completions", json=body)
        return many.json().get("error", {}).get("param"), answer.json()["usage"][
            "completion_tokens"
        ]

    working = service.config["applications"]
    before, replicas = look(), service.replica_pids()
    valid = configure_live(service, {"limits": {"max_choices": 1}}, {"default_max_tokens": 5})
    invalid = configure_live(service, {"limits": {"max_choics": 9}}, {"default_max_tokens": -9})
    streams = asyncio.create_task(read_all(service, [{"max_tokens": 15 * TOKENS_PER_S}] * 5))
    async with traffic(service) as sent:
        await asyncio.to_thread(service.deploy, valid)
        await asyncio.to_thread(wait_until, lambda: look() == ("n", 5), 20)
        await asyncio.to_thread(service.deploy, invalid)
        await asyncio.to_thread(wait_until, lambda: service.ready()["echo"]["message"], 20)
        with_mistakes, shown = await asyncio.to_thread(look), service.ready()["echo"]
        await asyncio.to_thread(service.deploy, working)
        await asyncio.to_thread(wait_until, lambda: look() == before, 20)

    assert with_mistakes == ("n", 5)
    assert shown["state"] == "ready"
    assert shown["message"].startswith("user_config.default_max_tokens: ")
    assert "user_config.limits.max_choics" in (service.home / "logs" / "serve.log").read_text()
    assert service.replica_pids() == replicas
    assert set(sent.answers) == {"200"}
    assert all(result.is_complete(15 * TOKENS_PER_S) for result in await streams)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({"tool_call_parsr": "hermes"}, "args.tool_call_parsr: Extra inputs are not permitted"),
        ({"source": "/no/such/folder"}, "/no/such/folder"),
    ],
    ids=["typo", "missing-source"],
)
async def test_version_that_cannot_run_leaves_the_one_before_in_service(
    service: Service, args: dict[str, Any], reason: str
) -> None:
    before = pids(service)
    working = service.config["applications"]
    async with traffic(service) as sent:
        await asyncio.to_thread(service.deploy, configure(**args))
        await asyncio.to_thread(
            wait_until, lambda: status(service) == "DEPLOY_FAILED", DEPLOY_TIMEOUT_S
        )
        await asyncio.sleep(3)
        shown = service.ready()["echo"]
        await asyncio.to_thread(service.deploy, working)
        await asyncio.to_thread(wait_until, lambda: status(service) == "RUNNING", DEPLOY_TIMEOUT_S)
        await asyncio.sleep(3)

    assert set(sent.answers) == {"200"}
    assert shown["state"] == "ready"
    assert reason in shown["message"]
    assert reason in (service.home / "logs" / "serve.log").read_text()
    assert service.ready()["echo"] == {"kind": "llm", "state": "ready", "message": None}
    assert pids(service) & before == before


async def test_requests_that_wait_for_a_model_fail_with_it(service: Service) -> None:
    """Its cold start would let streams wait for 300 s."""
    working = service.config["applications"]
    gone = application("gone", "llm", "LLM", source="/no/such/folder")
    body = {"model": "gone", "prompt": "a", "stream": True}
    async with new_client(service) as client:

        async def wait_for_it() -> list[str]:
            async with client.stream("POST", "/v1/completions", json=body) as response:
                return [line async for line in response.aiter_lines() if line]

        await asyncio.to_thread(service.deploy, [*working, gone])
        await asyncio.to_thread(wait_until, lambda: "gone" in service.ready(), 20)
        state = service.ready()["gone"]["state"]
        lines = await asyncio.wait_for(wait_for_it(), 60)
    await asyncio.to_thread(service.deploy, working)
    await asyncio.to_thread(wait_until, lambda: "gone" not in service.ready(), 20)

    assert state == "starting"
    assert lines[0] == ": the model is being loaded"
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "model_unavailable"


async def test_change_of_the_number_of_ingress_replicas_cuts_no_stream(service: Service) -> None:
    """It reloads HAProxy, whose old process goes on with the streams."""
    working = service.config["applications"]
    streams = asyncio.create_task(read_all(service, [{"max_tokens": 30 * TOKENS_PER_S}] * 5))
    async with traffic(service) as sent:
        for replicas in (2, 1):
            await asyncio.sleep(1)
            ingress = configure(replicas)[0]
            await asyncio.to_thread(service.deploy, [ingress, *working[1:]])
            await asyncio.to_thread(
                wait_until,
                lambda replicas=replicas: len(service.replica_pids()["ingress"]) == replicas,
                DEPLOY_TIMEOUT_S,
            )
    results = await streams

    assert set(sent.answers) == {"200"}
    assert all(result.is_complete(30 * TOKENS_PER_S) for result in results)
    configuration = "".join(
        path.read_text() for path in service.run_time_folder().rglob("haproxy.cfg")
    )
    assert "hard-stop-after 720s" in configuration
    assert "close-spread-time 10s" in configuration


async def test_stream_of_a_model_at_zero_gets_headers_at_once_and_then_its_tokens(
    service: Service,
) -> None:
    await asyncio.to_thread(
        wait_until, lambda: service.ready()["sleeper"]["state"] == "idle", DEPLOY_TIMEOUT_S
    )
    body = {"model": "sleeper", "prompt": "a b c", "max_tokens": 3, "stream": True}
    began_s = time.monotonic()
    async with new_client(service) as client:
        async with client.stream("POST", "/v1/completions", json=body) as response:
            headers_after_s = time.monotonic() - began_s
            lines = [line async for line in response.aiter_lines() if line]
        whole = await ask(client, 3, "sleeper")

    assert headers_after_s < 1
    assert lines[0] == ": the model is being loaded"
    assert lines[-1] == "data: [DONE]"
    assert whole == 200


async def test_waiting_requests_move_to_new_replicas(service: Service) -> None:
    """With the first replica alone the last stream would begin after 40 s."""
    tokens = 8 * TOKENS_PER_S
    working = service.config["applications"]
    began_s = time.monotonic()
    requests = [{"model": "narrow", "max_tokens": tokens}] * 12
    streams = asyncio.create_task(read_all(service, requests))
    await asyncio.sleep(1)
    await asyncio.to_thread(service.deploy, configure(narrow_replicas=3))
    results = await streams
    await asyncio.to_thread(service.deploy, working)

    assert all(result.is_complete(tokens) for result in results)
    assert max(result.first_at_s for result in results) - began_s < 30


async def ask(client: httpx.AsyncClient, tokens: int, model: str = "echo") -> int:
    body = {"model": model, "prompt": "a b c", "max_tokens": tokens}
    return (await client.post("/v1/completions", json=body)).status_code


async def test_requests_of_a_killed_replica_are_answered_by_another_and_metered_once(
    service: Service,
) -> None:
    await asyncio.sleep(1)  # until the records of the test before are written
    requests_before, tokens_before = service.usage()
    tokens = 4 * TOKENS_PER_S
    async with new_client(service) as client:
        asking = asyncio.gather(*(ask(client, tokens) for _ in range(20)))
        await asyncio.sleep(2)
        os.kill(min(pids(service)), signal.SIGKILL)
        answers = await asking
    await asyncio.to_thread(wait_until, lambda: service.usage()[0] >= requests_before + 20, 10)
    await asyncio.sleep(1)
    await asyncio.to_thread(wait_until, lambda: len(pids(service)) == 2, 60)

    assert answers == [200] * 20
    assert service.usage() == (requests_before + 20, tokens_before + 20 * tokens)


def find_busiest(service: Service) -> psutil.Process:
    """The replica with the most streams."""
    with service.watching("echo") as watch:
        wait_until(lambda: sum(replica["streams"] for replica in watch()["echo"]) >= 10, 10)
        return psutil.Process(max(watch()["echo"], key=lambda each: each["streams"])["pid"])


async def test_frozen_replica_is_noticed_within_20_s(service: Service) -> None:
    """Streams on it end with an error event; whole answers come from the other replica."""
    results = [StreamResult("a b c") for _ in range(10)]
    async with new_client(service) as client, asyncio.TaskGroup() as group:
        for result in results:
            group.create_task(read(client, result, max_tokens=30 * TOKENS_PER_S))
        whole = [group.create_task(ask(client, 15 * TOKENS_PER_S)) for _ in range(10)]
        await asyncio.sleep(2)
        frozen = await asyncio.to_thread(find_busiest, service)
        frozen.suspend()
        frozen_at_s = time.monotonic()
    await asyncio.to_thread(wait_until, lambda: len(pids(service)) == 2, 60)

    broken = [result for result in results if is_broken_off(result)]
    assert broken
    assert all(r in broken or r.is_complete(30 * TOKENS_PER_S) for r in results)
    assert max(result.ended_at_s for result in broken) - frozen_at_s < 20
    assert [task.result() for task in whole] == [200] * 10
    assert not frozen.is_running()


async def test_sigterm_lets_requests_finish_and_refuses_new_ones(service: Service) -> None:
    """The last test of this module: it ends the service."""
    reading = asyncio.create_task(read_all(service, [{"max_tokens": 5 * TOKENS_PER_S}] * 10))
    await asyncio.sleep(1)
    stopping = asyncio.create_task(asyncio.to_thread(service.stop, 30))
    await asyncio.sleep(1)
    [refused] = await read_all(service, [{"max_tokens": 1}])
    results = await reading
    left = await stopping

    assert refused.errors == ["service_stopping"]
    assert all(result.is_complete(5 * TOKENS_PER_S) for result in results)
    assert left == []
    assert service.process.returncode == 0
