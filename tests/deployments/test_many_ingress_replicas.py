"""A hundred ingress replicas and 200 models: Serve's controller is asked as often as by one.

By the ledger only if there is one. Without, by one ingress replica for all.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from deployments.config.llm import LlmArgs
from deployments.discovery import to_models
from deployments.ingress.serve_details import PushedDetails
from deployments.ingress.shared_look import SharedLook
from deployments.ledger.client import LedgerClient
from deployments.ledger.serve_watch import ServeWatch
from deployments.serve_look import ServeLook, pack_capabilities, to_key
from tests.helpers.cluster_store import DictStore
from tests.helpers.ledger_cluster import LedgerCluster, until

MODELS = 200
INTERVAL_S = 0.05


def record() -> dict[str, Any]:
    """What Ray 2.60 says about a model with two replicas, for 200 of them."""
    return {"applications": {f"m{number}": application(f"m{number}") for number in range(MODELS)}}


def application(name: str) -> dict[str, Any]:
    replica = {
        "node_id": "3f0c5a2e8d9b4c7fa1e6d8b3c5f7a9e1d3b5c7f9a1e3d5b7c9f1a3e5",
        "node_ip": "127.0.0.1",
        "node_instance_id": "",
        "start_time_s": 1700000000.5,
        "actor_id": "d8a1b3c5e7f9a1c3e5d7b9f101000000",
        "actor_name": f"SERVE_REPLICA::{name}#LLM#abcdefgh",
        "worker_id": "28df0f6f4ea7a4f3f3f0c5a2e8d9b4c7fa1e6d8b3c5f7a9e1d3b5c7f",
        "log_file_path": "/serve/replica.log",
        "state": "RUNNING",
        "pid": 1234,
    }
    replicas = [{**replica, "replica_id": f"{name}-{number}"} for number in range(2)]
    config = {
        "name": name,
        "route_prefix": None,
        "import_path": "deployments.app:llm",
        "runtime_env": {},
        "args": {"id": name, "source": "fake:", "engine": {"max_model_len": 4096}},
        "deployments": [{"name": "LLM", "num_replicas": 2}],
    }
    deployment = {
        "name": "LLM",
        "status": "HEALTHY",
        "message": "",
        "target_num_replicas": 2,
        "replicas": replicas,
    }
    return {
        "name": name,
        "status": "RUNNING",
        "message": "",
        "last_deployed_time_s": 1700000000.5,
        "deployed_app_config": config,
        "deployments": {"LLM": deployment},
    }


class Controller:
    """Serve's controller, which counts how often ingress replicas ask it, and the models' store."""

    def __init__(self) -> None:
        self.details = record()
        self.asked_by_ingress = 0
        self.store = DictStore()
        for application in self.details["applications"].values():
            args = LlmArgs.model_validate(application["deployed_app_config"]["args"])
            self.store.values[to_key(args)] = pack_capabilities({"max_tokens": 4096})

    async def answer_ledger(self) -> Mapping[str, Any]:
        return self.details

    async def answer_ingress(self) -> Mapping[str, Any]:
        self.asked_by_ingress += 1
        return self.details


def build_source(
    controller: Controller, clock: Callable[[], float] = time.monotonic
) -> PushedDetails:
    """What one ingress replica has, which asks the controller where no ledger says anything."""
    look = ServeLook(controller.answer_ingress, controller.store)
    shared = SharedLook(look.fetch, controller.store, interval_s=INTERVAL_S, clock=clock)
    return PushedDetails(shared)


@contextlib.asynccontextmanager
async def ingress_replicas(
    count: int, controller: Controller, folder: Path
) -> AsyncIterator[list[PushedDetails]]:
    """As many ingress replicas as wanted, all of which know what Serve runs, and a ledger."""
    cluster = LedgerCluster(folder)
    await cluster.start()
    look = ServeLook(controller.answer_ledger, controller.store)
    watch = ServeWatch(look.fetch, cluster.server.publish_details, interval_s=INTERVAL_S)
    looking = asyncio.create_task(watch.run())
    sources = [build_source(controller) for _ in range(count)]
    clients = [LedgerClient(cluster.find, None, source.update) for source in sources]
    for client in clients:
        client.start()
    try:
        await until(lambda: all(source._latest is not None for source in sources))
        for source in sources:
            await source.wait_for_change(0)  # what they have seen already is no change
        yield sources
    finally:
        looking.cancel()
        for client in clients:
            client.shut_down()
        cluster.server.shut_down()


async def count_models(source: PushedDetails) -> int:
    """How many models are known, each with what it says about itself."""
    models = list(to_models(await source.fetch()))
    assert all(model.capabilities == {"max_tokens": 4096} for model in models)
    return len(models)


@pytest.mark.parametrize("count", [1, 100])
async def test_ingress_replicas_follow_changes_without_asking_the_controller(
    count: int, tmp_path: Path
) -> None:
    controller = Controller()
    async with ingress_replicas(count, controller, tmp_path) as sources:
        before = [await count_models(source) for source in sources]
        controller.details["applications"].pop("m7")
        for source in sources:
            await asyncio.wait_for(source.wait_for_change(5), 6)
        after = [await count_models(source) for source in sources]

    assert before == [MODELS] * count
    assert after == [MODELS - 1] * count
    assert controller.asked_by_ingress == 0
    assert set(controller.store.calls) <= {("get_many", str(MODELS)), ("get_many", str(MODELS - 1))}


class Polling:
    """Ingress replicas without a ledger, which look at their own times of each interval."""

    def __init__(self, count: int, controller: Controller) -> None:
        self._now_s = 0.0
        self._controller = controller
        self._sources = [build_source(controller, lambda: self._now_s) for _ in range(count)]

    async def poll(self, sources: Sequence[PushedDetails] | None = None) -> set[int]:
        """Let an interval pass: how many models the replicas know after it."""
        sources = sources or self._sources
        counts = set()
        for source in sources:
            self._now_s += INTERVAL_S / len(sources)
            counts.add(await count_models(source))
        return counts

    async def poll_survivors(self) -> set[int]:
        """The same without the replica that started last, which looks for the others."""
        return await self.poll(self._sources[:-1])

    def pop_counts(self) -> tuple[int, int]:
        """How often the controller was asked, and capabilities read, since the last call."""
        counts = self._controller.asked_by_ingress, self._controller.store.count("get_many")
        self._controller.asked_by_ingress = 0
        self._controller.store.calls.clear()
        return counts


@pytest.mark.parametrize("count", [1, 100])
async def test_without_a_ledger_one_ingress_replica_asks_for_all(count: int) -> None:
    controller = Controller()
    polling = Polling(count, controller)
    at_start = await polling.poll()
    starting = polling.pop_counts()
    for _ in range(10):
        await polling.poll()
    resting = polling.pop_counts()

    controller.details["applications"].pop("m7")
    await polling.poll()
    after = await polling.poll()

    assert (at_start, after) == ({MODELS}, {MODELS - 1})
    assert starting == (count, count)  # each looks when it starts
    assert resting == (10, 10)


async def test_without_a_ledger_another_ingress_replica_asks_when_one_is_gone() -> None:
    controller = Controller()
    polling = Polling(100, controller)
    await polling.poll()
    polling.pop_counts()
    controller.details["applications"].pop("m7")
    seen = [await polling.poll_survivors() for _ in range(10)]
    looks, reads = polling.pop_counts()

    assert seen[0] == {MODELS}
    assert set.union(*seen[4:]) == {MODELS - 1}
    assert looks == reads <= 10
