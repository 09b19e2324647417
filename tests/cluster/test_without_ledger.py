"""A service without a ledger: what its ingress replicas share, and what cuts its streams.

HAProxy's `hard-stop-after` does, and a second signal.

That streams survive a reload if `hard-stop-after` is later than their end, `test_changes.py` shows
with the setting of the service.
"""

import asyncio
import copy
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.service.environment import haproxy_binary
from tests.cluster.conftest import APPLICATIONS, application
from tests.helpers.service import Service, running, wait_until
from tests.helpers.streams import read_all

pytestmark = pytest.mark.cluster

HAPROXY = Path(__file__).parents[1] / "helpers" / "haproxy_with_hard_stop"
HARD_STOP_S = 5
ENDLESS = {"max_tokens": 2000}
"""A hundred seconds."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An ingress and `echo`; HAProxy cuts older streams soon after a reload."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("REAL_HAPROXY", haproxy_binary())
        environment.setenv("HARD_STOP", str(HARD_STOP_S))
        environment.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(HAPROXY))
        config = {"applications": APPLICATIONS[:2]}
        with running(config, tmp_path_factory.mktemp("home")) as service:
            yield service


async def test_hard_stop_after_a_reload_cuts_the_streams_that_are_older(service: Service) -> None:
    ingress, echo = copy.deepcopy(APPLICATIONS[:2])
    streams = asyncio.create_task(read_all(service, [ENDLESS] * 3))
    await asyncio.sleep(1)
    ingress["deployments"][0]["num_replicas"] = 2
    await asyncio.to_thread(service.deploy, [ingress, echo])
    results = await streams

    assert [result.is_cut for result in results] == [True] * 3


def test_ingress_replicas_without_a_ledger_share_what_one_of_them_sees(service: Service):
    """All list a new model, and what only its engine knows, soon after it has loaded."""
    ingress, echo = copy.deepcopy(APPLICATIONS[:2])
    ingress["deployments"][0]["num_replicas"] = 3
    service.deploy([ingress, echo])
    wait_until(lambda: len(service.replica_pids()["ingress"]) == 3, timeout_s=60)
    service.deploy([ingress, echo, application("colours", "diffusion", "Diffusion")])
    wait_until(lambda: len(service.replica_pids().get("colours", [])) == 1, timeout_s=60)
    all_after_s = wait_until(lambda: all(map(is_complete, list_often(service))), timeout_s=30)

    assert all_after_s < 6


def list_often(service: Service) -> list[dict[str, dict[str, Any]]]:
    """The models as ingress replicas list them, each of them very probably."""
    listed = []
    for _ in range(20):
        with service.client() as client:  # a connection of its own, so any replica may answer
            cards = client.get("/v1/models").json()["data"]
            listed.append({card["id"]: card["triptych"] for card in cards})
    return listed


def is_complete(listed: dict[str, dict[str, Any]]) -> bool:
    """Whether each model is listed with what its engine says."""
    return "size" in listed.get("colours", {}) and "reads_pictures" in listed["echo"]


async def test_second_signal_ends_the_service_at_once(service: Service) -> None:
    """The last test of this module: it ends the service."""
    reading = asyncio.create_task(read_all(service, [ENDLESS] * 5))
    await asyncio.sleep(2)
    service.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "they have 30 s" in service.output.read_text(), 5)
    left = await asyncio.to_thread(service.stop, 20)
    results = await reading

    assert not any(result.is_done for result in results)
    assert left == []
