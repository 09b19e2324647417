"""A model over two Ray nodes with two GPUs each; the ingress is on the first of them.

Its replica is on the second, and has one worker in each bundle of its group. The nodes have
different addresses.

The GPUs are declared and do not exist: Ray hands out their ids all the same.
"""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.cluster.conftest import application
from tests.helpers.ray_nodes import FIRST, HEADERS, SECOND, RayNodes
from tests.helpers.service import sse_events, wait_until

pytestmark = pytest.mark.cluster

REPLICA, WORKER = "ServeReplica:wide:LLM", "ray::FakeWorker"
COUNT = 4


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    wide = application("wide", "llm", "LLM", engine={"tokens_per_s": 200, "workers": COUNT})
    wide["deployments"] = [
        {
            "name": "LLM",
            "ray_actor_options": {"num_cpus": 0.1},
            "placement_group_bundles": [
                {"CPU": 0.1, "GPU": 1, "second": 0.1},
                *({"GPU": 1} for _ in range(COUNT - 1)),
            ],
            "placement_group_strategy": "PACK",
        }
    ]
    nodes = RayNodes(tmp_path_factory.mktemp("nodes"), wide, "--num-gpus=2")
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


def test_tokens_stream_between_nodes(nodes: RayNodes) -> None:
    body = {"model": "wide", "prompt": "a b c", "max_tokens": 50, "stream": True}
    with httpx.stream(
        "POST", f"{nodes.url}/v1/completions", json=body, headers=HEADERS, timeout=60
    ) as response:
        *chunks, done = sse_events(response.iter_lines())
    text = "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks)

    assert text.split() == (["a", "b", "c"] * 17)[:50]
    assert done == "[DONE]"
    assert FIRST in nodes.listeners("ServeReplica:ingress:Ingress")
    assert SECOND in nodes.listeners(REPLICA)


def test_group_of_a_model_is_spread_over_nodes_and_replaced_with_a_worker(nodes: RayNodes) -> None:
    """The last test of this module: it ends the service."""
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
