"""A RayService without Kubernetes: pods are started, deployed to and probed as KubeRay does it.

Streams and short requests go on all the time, through the ready workers. What is planned fails no
request; what is killed fails only the requests that it was serving.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.helpers.kubernetes.cluster_service import ClusterService, in_background
from tests.helpers.kubernetes.operator import RayCluster, is_ready
from tests.helpers.kubernetes.pods import Network, Pod, can_make_pods, pod_network
from tests.helpers.kustomize import find, find_containers, render
from tests.helpers.postgres import make_database, running_postgres
from tests.helpers.service import ROOT, wait_until
from tests.helpers.traffic import STREAMS, Answer, Traffic

pytestmark = pytest.mark.cluster

KEY = "sk-of-the-rehearsal"
PASSWORD = "p" * 32
MANIFESTS = render(ROOT / "tests" / "data" / "kuberay" / "rehearsal")
CONFIG = find(MANIFESTS, "RayService")["spec"]["serveConfigV2"]
KILLED = {"engine_unavailable", "server_is_overloaded", "cut"}
"""What a client may see whose request a killed pod was serving: engine, ingress or HAProxy."""


@dataclass
class Rehearsal:
    """The RayService, its clients, and what a second cluster needs."""

    service: ClusterService
    traffic: Traffic
    new_cluster: Callable[[str], RayCluster]

    @property
    def cluster(self) -> RayCluster:
        """The cluster that requests go to."""
        return self.service.cluster

    def wait_for_streams(self) -> float:
        """Wait until everything is ready and all streams are open; returns the time."""
        wait_until(lambda: len(self.service.ready) == 2, timeout_s=120)
        wait_until(self.cluster.is_deployed, timeout_s=120)
        wait_until(lambda: self.traffic.open_streams == STREAMS, timeout_s=30)
        return time.monotonic()

    def wait_for_answers(self, began_s: float) -> list[Answer]:
        """Wait until everything that was open has ended, and as much again; returns both."""
        asked_s = time.monotonic()
        open_answers = [each for each in self.traffic.answers if not each.ended_s]
        wait_until(lambda: all(each.ended_s for each in open_answers), timeout_s=60)
        wait_until(
            lambda: sum(1 for each in self.traffic.since(asked_s) if each.began_s > asked_s) > 10,
            timeout_s=60,
        )
        return self.traffic.since(began_s)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    if not can_make_pods():
        pytest.skip("namespaces cannot be made here")
    folder = tmp_path_factory.mktemp("pods")
    before = set(psutil.Process().children(recursive=True))
    with ExitStack() as stack:
        network = stack.enter_context(pod_network())
        secrets = stack.enter_context(secrets_of(network, folder))

        def new_cluster(name: str) -> RayCluster:
            cluster = RayCluster(name, MANIFESTS, secrets, network, folder)
            stack.callback(cluster.end)
            cluster.start()
            cluster.deploy(CONFIG)
            wait_until(cluster.is_deployed, timeout_s=180)
            return cluster

        service = ClusterService(new_cluster("first"))
        stack.enter_context(in_background(service.run))
        wait_until(lambda: len(service.ready) == 2, timeout_s=60)
        traffic = Traffic(service.url, make_key(service.ready[0]))
        stack.enter_context(in_background(traffic.run))
        yield Rehearsal(service, traffic, new_cluster)
        started = set(psutil.Process().children(recursive=True)) - before
    assert len(started) > 50
    assert psutil.wait_procs(started, timeout=10)[1] == []


@contextmanager
def secrets_of(network: Network, folder: Path) -> Iterator[dict[str, dict[str, str]]]:
    """Run PostgreSQL, and Redis as its manifest says; yields the entries of all Secrets."""
    with running_postgres(network.gateway) as port:
        redis = start_redis(network, folder)
        network.hosts[redis.name] = redis.address
        try:
            yield {
                "triptych": {
                    "TRIPTYCH_API_KEYS": KEY,
                    "TRIPTYCH_PEPPER": "ab" * 32,
                    "TRIPTYCH_DATABASE_URL": make_database(port, "triptych", network.gateway),
                    "TRIPTYCH_REDIS_URL": f"redis://:{PASSWORD}@{redis.name}:6379/1",
                },
                redis.name: {"password": PASSWORD},
            }
        finally:
            redis.end()


def start_redis(network: Network, folder: Path) -> Pod:
    pod = Pod("triptych-redis", network, folder)
    (container,) = find_containers(find(MANIFESTS, "StatefulSet", pod.name))
    # There is no volume for /data.
    command = [word.replace("dir /data", "dir /tmp") for word in container["command"]]
    pod.start(command, {"PATH": os.environ["PATH"], "REDIS_PASSWORD": PASSWORD})
    wait_until(lambda: pod.execute("redis-cli ping | grep NOAUTH", 2), timeout_s=20)
    return pod


def make_key(worker: Pod) -> str:
    """Make a key with limits, so that every request asks the ledger."""
    return worker.run("triptych", "keys", "create", "--name", "clients", "--rpm", "100000").strip()


def failures(answers: list[Answer], began_s: float) -> list[str]:
    return [each.describe(began_s) for each in answers if each.failure]


def is_excused(answer: Answer, killed_s: float) -> bool:
    """Whether the request was open when something was killed, and the client could see it end."""
    was_open = answer.began_s <= killed_s
    return was_open and (answer.failure or "").partition(":")[0] in KILLED


def test_update_of_one_model_fails_no_request(rehearsal: Rehearsal) -> None:
    began_s = rehearsal.wait_for_streams()

    rehearsal.cluster.deploy(CONFIG.replace("tokens_per_s: 20", "tokens_per_s: 19"))
    wait_until(lambda: not rehearsal.cluster.is_deployed(), timeout_s=30)
    wait_until(rehearsal.cluster.is_deployed, timeout_s=120)

    answers = rehearsal.wait_for_answers(began_s)
    assert failures(answers, began_s) == []
    assert Counter(each.kind for each in answers)["stream"] >= STREAMS


def test_worker_that_is_told_to_end_finishes_its_streams(rehearsal: Rehearsal) -> None:
    began_s = rehearsal.wait_for_streams()
    worker = rehearsal.cluster.workers[0]

    rehearsal.service.leaving.add(worker)
    worker.send_signal(signal.SIGTERM)
    rehearsal.cluster.add_worker()
    worker.wait(timeout_s=150)

    assert failures(rehearsal.wait_for_answers(began_s), began_s) == []
    wait_until(lambda: len(rehearsal.service.ready) == 2, timeout_s=60)


@pytest.mark.parametrize("what", ["container", "node"])
def test_worker_that_is_killed_fails_only_what_it_was_serving(
    rehearsal: Rehearsal, what: str
) -> None:
    """The ledger is on it. A container starts again in its pod; a node is replaced by another."""
    began_s = rehearsal.wait_for_streams()
    (worker,) = [each for each in rehearsal.service.ready if each.find_pids("Replica:ledger")]

    worker.send_signal(signal.SIGKILL)
    worker.wait(timeout_s=20)
    if what == "container":
        killed_s = time.monotonic()
        rehearsal.cluster.start_worker(worker)
    else:
        worker.end()
        killed_s = time.monotonic()
        rehearsal.cluster.add_worker()
    wait_until(lambda: len(rehearsal.service.ready) == 2, timeout_s=120)

    answers = rehearsal.wait_for_answers(began_s)
    others = [each for each in answers if not is_excused(each, killed_s)]
    assert failures(others, began_s) == []


def test_head_that_is_killed_and_comes_back_fails_no_request(rehearsal: Rehearsal) -> None:
    began_s = rehearsal.wait_for_streams()
    head = rehearsal.cluster.head

    for pid in head.find_pids("gcs_server"):
        os.kill(pid, signal.SIGKILL)
    head.wait(timeout_s=60)  # the container ends with its GCS
    rehearsal.cluster.start_head()
    wait_until(rehearsal.cluster.is_deployed, timeout_s=120)
    rehearsal.cluster.deploy(CONFIG)
    wait_until(rehearsal.cluster.is_deployed, timeout_s=120)

    assert failures(rehearsal.wait_for_answers(began_s), began_s) == []


def test_switch_to_a_second_cluster_fails_no_request(rehearsal: Rehearsal) -> None:
    began_s = rehearsal.wait_for_streams()
    old = rehearsal.cluster

    new = rehearsal.new_cluster("second")
    wait_until(lambda: all(map(is_ready, new.workers)), timeout_s=60)
    rehearsal.service.switch(new)
    # The operator waits for twelve minutes before it deletes the old pods. They need not that time.
    rehearsal.service.leaving.update(old.workers)
    for pod in old.pods:
        if pod.is_running:
            pod.send_signal(signal.SIGTERM)

    assert failures(rehearsal.wait_for_answers(began_s), began_s) == []
