"""Random planned changes, one after the other, under long streams and short requests.

No request is refused, no stream is cut, and the usage table is what the clients got. Each kind of
change comes once or not at all in the minute of a whole test run. For longer, by hand:

    CHANGES_S=900 .venv/bin/python -m pytest -s tests/cluster/test_planned_changes.py
"""

import asyncio
import copy
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import APPLICATIONS, LEDGER, application
from tests.helpers.service import Service, running, wait_until
from tests.helpers.streams import StreamResult, new_client, read

pytestmark = pytest.mark.cluster

DURATION_S = float(os.environ.get("CHANGES_S", "60"))
SEED = int(os.environ.get("CHANGES_SEED", "16"))
STREAMS = 20
TOKENS_PER_S = 10
MEAN_STREAM_S = 20
SHORT_TOKENS = 3
REQUESTS_PER_S = 5
SETTLE_TIMEOUT_S = 90


def new_config() -> dict[str, dict[str, Any]]:
    """The first configuration, by application."""
    ingress = copy.deepcopy(APPLICATIONS[0])
    ingress["args"]["limits"] = {"request_timeout_s": 400}
    ingress["deployments"][0]["num_replicas"] = 1
    echo = application("echo", "llm", "LLM", engine={"tokens_per_s": TOKENS_PER_S})
    echo["deployments"][0]["num_replicas"] = 2
    return {"ingress": ingress, "echo": echo, "ledger": copy.deepcopy(LEDGER)}


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    config = {"applications": list(new_config().values())}
    with running(config, tmp_path_factory.mktemp("home")) as service:
        yield service


class Changes:
    """Draws planned changes, deploys each, and waits until Serve has made it."""

    def __init__(self, service: Service, chance: random.Random) -> None:
        self.made: Counter[str] = Counter()
        self._service = service
        self._chance = chance
        self._config = new_config()
        self._all: list[Callable[[], Awaitable[None]]] = [
            self.change_arguments,
            self.change_options,
            self.change_live_settings,
            self.mistype_and_correct,
            self.add_or_remove_a_model,
            self.scale_ingress,
            self.scale_model,
            self.redeploy_ledger,
        ]

    async def run(self) -> None:
        """Make changes in random order, each kind equally often."""
        while True:
            for change in self._chance.sample(self._all, len(self._all)):
                await change()
                self.made[change.__name__] += 1

    async def change_arguments(self) -> None:
        self._config["echo"]["args"]["default_max_tokens"] = self._chance.randint(16, 10_000)
        await self._deploy()

    async def change_options(self) -> None:
        options = self._config["echo"]["deployments"][0]
        options["health_check_period_s"] = self._chance.randint(1, 5)
        options["max_queued_requests"] = self._chance.randint(500, 1000)
        await self._deploy()

    async def change_live_settings(self) -> None:
        """Change settings of the ingress and the model without a restart, then mistype one."""
        ingress, echo = (self._config[name]["deployments"][0] for name in ("ingress", "echo"))
        for most_choices in (self._chance.randint(1, 100), 0):
            ingress["user_config"] = {"limits": {"max_choices": most_choices}}
            echo["user_config"] = {"default_max_tokens": most_choices}
            await self._deploy()
        del ingress["user_config"], echo["user_config"]
        await self._deploy()

    async def mistype_and_correct(self) -> None:
        arguments = self._config["echo"]["args"]
        arguments["tool_call_parsr"] = "hermes"
        await self._deploy("DEPLOY_FAILED")
        await asyncio.sleep(3)
        del arguments["tool_call_parsr"]
        await self._deploy()

    async def add_or_remove_a_model(self) -> None:
        if self._config.pop("vectors", None) is None:
            self._config["vectors"] = application("vectors", "embedding", "Embedding")
        await self._deploy()

    async def scale_ingress(self) -> None:
        options = self._config["ingress"]["deployments"][0]
        options["num_replicas"] = 3 - options["num_replicas"]
        await self._deploy()

    async def scale_model(self) -> None:
        options = self._config["echo"]["deployments"][0]
        options["num_replicas"] = self._chance.choice(
            [count for count in (1, 2, 3) if count != options["num_replicas"]]
        )
        await self._deploy()

    async def redeploy_ledger(self) -> None:
        self._config["ledger"]["args"]["poll_interval_s"] = self._chance.uniform(0.5, 1.5)
        await self._deploy()

    async def _deploy(self, status: str = "") -> None:
        """Deploy, and wait until `echo` has a status, or all replicas that shall run do so."""
        applications = copy.deepcopy(list(self._config.values()))
        await asyncio.to_thread(self._service.deploy, applications)
        await asyncio.sleep(1)
        await asyncio.to_thread(wait_until, lambda: self._is_settled(status), SETTLE_TIMEOUT_S)

    def _is_settled(self, status: str) -> bool:
        details = self._service.applications()
        if status:
            return bool(details["echo"]["status"] == status)
        is_removed = details.keys() <= self._config.keys()
        return is_removed and all(map(is_running, details.values()))


def is_running(application: dict[str, Any]) -> bool:
    """Whether as many replicas run as shall; others may still finish their streams."""
    deployments = application["deployments"].values()
    return bool(deployments) and all(
        [replica["state"] for replica in deployment["replicas"] if replica["state"] != "STOPPING"]
        == ["RUNNING"] * deployment["target_num_replicas"]
        for deployment in deployments
    )


class Clients:
    """Keeps streams of random lengths open, and sends short requests at a steady rate."""

    def __init__(self, chance: random.Random) -> None:
        self.streams: list[tuple[StreamResult, int]] = []
        self.short: Counter[str] = Counter()
        self._chance = chance

    @property
    def tokens(self) -> int:
        """Completion tokens that all of them must have got."""
        return sum(tokens for _, tokens in self.streams) + SHORT_TOKENS * self.short["200"]

    async def run(self, service: Service, duration_s: float) -> None:
        """Begin requests for a time, and wait for all to end."""
        ends_s = time.monotonic() + duration_s
        async with new_client(service) as client, asyncio.TaskGroup() as group:
            for _ in range(STREAMS):
                group.create_task(self._keep_streaming(client, ends_s))
            while time.monotonic() < ends_s:
                group.create_task(self._send_short(client))
                await asyncio.sleep(1 / REQUESTS_PER_S)

    async def _keep_streaming(self, client: httpx.AsyncClient, ends_s: float) -> None:
        while (left_s := ends_s - time.monotonic()) > 1:
            seconds = min(max(1, self._chance.expovariate(1 / MEAN_STREAM_S)), left_s, 300)
            result, tokens = StreamResult("a b c d e"), int(seconds * TOKENS_PER_S)
            self.streams.append((result, tokens))
            await read(client, result, max_tokens=tokens)

    async def _send_short(self, client: httpx.AsyncClient) -> None:
        body = {"model": "echo", "prompt": "a b c", "max_tokens": SHORT_TOKENS}
        try:
            response = await client.post("/v1/completions", json=body)
        except httpx.TransportError as error:
            self.short[type(error).__name__] += 1
        else:
            self.short[str(response.status_code)] += 1


@pytest.mark.timeout(DURATION_S + 300)
async def test_planned_changes_refuse_no_request_cut_no_stream_and_lose_no_usage(
    service: Service,
) -> None:
    changes = Changes(service, random.Random(SEED))
    clients = Clients(random.Random(SEED))
    changing = asyncio.create_task(changes.run())
    await clients.run(service, DURATION_S)
    assert not changing.done(), changing.exception()
    changing.cancel()
    await asyncio.wait({changing})
    broken = [
        (tokens, result) for result, tokens in clients.streams if not result.is_complete(tokens)
    ]
    print(changes.made, len(clients.streams), "streams", clients.short)

    assert broken == []
    assert set(clients.short) == {"200"}
    expected = (len(clients.streams) + clients.short["200"], clients.tokens)
    await asyncio.to_thread(wait_until, lambda: service.usage()[0] >= expected[0], 30)
    assert service.usage() == expected
