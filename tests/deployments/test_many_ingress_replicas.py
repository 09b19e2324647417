"""A hundred ingress replicas and 200 models: Serve's controller is asked by the ledger only."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from deployments.discovery import to_models
from deployments.ingress.serve_details import PushedDetails
from deployments.ledger.client import LedgerClient
from deployments.ledger.serve_watch import ServeWatch
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
    """Serve's controller, which counts how often ingress replicas ask it."""

    def __init__(self) -> None:
        self.details = record()
        self.asked_by_ingress = 0

    async def answer_ledger(self) -> Mapping[str, Any]:
        return self.details

    async def answer_ingress(self) -> Mapping[str, Any]:
        self.asked_by_ingress += 1
        return self.details


@contextlib.asynccontextmanager
async def ingress_replicas(
    count: int, controller: Controller, folder: Path
) -> AsyncIterator[list[PushedDetails]]:
    """As many ingress replicas as wanted, all of which know what Serve runs, and a ledger."""
    cluster = LedgerCluster(folder)
    await cluster.start()
    watch = ServeWatch(
        controller.answer_ledger, cluster.server.publish_details, interval_s=INTERVAL_S
    )
    looking = asyncio.create_task(watch.run())
    sources = [PushedDetails(controller.answer_ingress) for _ in range(count)]
    clients = [LedgerClient(cluster.find, None, source.update) for source in sources]
    for client in clients:
        client.start()
    try:
        await until(lambda: all(source._details is not None for source in sources))
        for source in sources:
            await source.wait_for_change(0)  # what they have seen already is no change
        yield sources
    finally:
        looking.cancel()
        for client in clients:
            client.shut_down()
        cluster.server.shut_down()


async def count_models(source: PushedDetails) -> int:
    return len(list(to_models(await source.fetch())))


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
