"""A model over two Ray nodes with two GPUs each: one worker in each bundle of its group.

The GPUs are declared and do not exist: Ray hands out their ids all the same.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.cluster.conftest import application
from tests.helpers.ray_nodes import HEADERS, RayNodes
from tests.helpers.service import wait_until

pytestmark = pytest.mark.cluster

REPLICA, WORKER = "ServeReplica:wide:LLM", "ray::FakeWorker"
COUNT = 4


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[RayNodes]:
    wide = application("wide", "llm", "LLM", engine={"tokens_per_s": 200, "workers": COUNT})
    wide["deployments"] = [
        {
            "name": "LLM",
            "ray_actor_options": {"num_cpus": 0.1},
            "placement_group_bundles": [{"CPU": 0.1, "GPU": 1}, {"GPU": 1}, {"GPU": 1}, {"GPU": 1}],
            "placement_group_strategy": "PACK",
        }
    ]
    nodes = RayNodes(tmp_path, wide, "--num-gpus=2")
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.end()


def complete(nodes: RayNodes) -> httpx.Response:
    body = {"model": "wide", "prompt": "a b c"}
    return httpx.post(f"{nodes.url}/v1/completions", json=body, headers=HEADERS, timeout=60)


def read_places(nodes: RayNodes) -> list[dict[str, Any]]:
    """Node and GPUs of each worker; empty until the ingress knows them."""
    models = httpx.get(f"{nodes.url}/v1/models", headers=HEADERS).json()["data"]
    places: list[dict[str, Any]] = models[0]["triptych"].get("workers", [])
    return places


def pids(processes: list[psutil.Process]) -> set[int]:
    return {process.pid for process in processes}


def test_group_of_a_model_is_spread_over_nodes_and_replaced_with_a_worker(nodes: RayNodes) -> None:
    wait_until(lambda: read_places(nodes) != [], timeout_s=20)
    places = read_places(nodes)
    by_node = {
        node: sorted(gpu for place in places if place["node"] == node for gpu in place["gpus"])
        for node in {place["node"] for place in places}
    }
    assert list(by_node.values()) == [["0", "1"], ["0", "1"]]
    assert complete(nodes).status_code == 200

    # Every GPU is taken: another replica can start only when the old group is gone.
    replica, workers = pids(nodes.find_processes(REPLICA)), pids(nodes.find_processes(WORKER))
    assert (len(replica), len(workers)) == (1, COUNT)
    os.kill(min(workers), signal.SIGKILL)

    def is_replaced() -> bool:
        new = pids(nodes.find_processes(WORKER))
        is_new = len(new) == COUNT and not new & workers
        return is_new and not pids(nodes.find_processes(REPLICA)) & replica

    wait_until(is_replaced, timeout_s=120)
    wait_until(lambda: complete(nodes).status_code == 200, timeout_s=30)

    nodes.stop_service(signal.SIGINT)
    wait_until(lambda: nodes.find_processes(WORKER) == [], timeout_s=60)
