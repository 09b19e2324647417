"""Streams while replicas of both ends die, hang and scale; nothing must be left behind."""

import asyncio
import os
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import zmq

from tests.cluster.conftest import application
from tests.helpers.service import ROOT, Counts, Service, running, wait_until
from tests.helpers.streams import (
    StreamResult,
    connect_and_disconnect,
    is_broken_off,
    new_client,
    read,
    read_all,
)

pytestmark = pytest.mark.cluster

INGRESS_REPLICAS = LLM_REPLICAS = 2
TOKENS_PER_S = 20
DEADLINE_S = 10

Watch = Callable[[], dict[str, list[Counts]]]


def configure(ingress_replicas: int, llm_replicas: int) -> list[dict[str, Any]]:
    """The configuration: fake LLMs with several replicas of each application."""
    ingress = {
        "name": "ingress",
        "route_prefix": "/",
        "import_path": "deployments.app:ingress",
        "args": {"limits": {"request_timeout_s": DEADLINE_S}, "poll_interval_s": 1},
        "deployments": [
            {
                "name": "Ingress",
                "num_replicas": ingress_replicas,
                "ray_actor_options": {"num_cpus": 0.1},
            }
        ],
    }
    folder = str(ROOT / "docs")  # the fake engine needs no adapter files
    adapters = [{"id": name, "source": folder} for name in ("loud", "first")]
    engine = {"tokens_per_s": TOKENS_PER_S}
    echo = application("echo", "llm", "LLM", engine=engine, adapters=adapters)
    echo["deployments"][0]["num_replicas"] = llm_replicas
    breaks = application(
        "breaks", "llm", "LLM", engine={"fail_after_tokens": 3, "tokens_per_s": TOKENS_PER_S}
    )
    return [ingress, echo, breaks]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two replicas of each end."""
    applications = configure(INGRESS_REPLICAS, LLM_REPLICAS)
    with running({"applications": applications}, tmp_path_factory.mktemp("home")) as service:
        yield service


@pytest.fixture(scope="module")
def watch(service: Service) -> Iterator[Watch]:
    """The counts of all replicas, once each has served a request."""
    with service.watching("ingress", "echo", "breaks") as watch:
        wait_until(lambda: len(watch()["ingress"]) == INGRESS_REPLICAS, timeout_s=60)
        wait_until(lambda: len(watch()["echo"]) == LLM_REPLICAS, timeout_s=60)
        asyncio.run(read_all(service, [{"max_tokens": 2}] * 20))
        # After its first adapter a replica has a few more tasks, which report adapters to Serve.
        asyncio.run(read_all(service, [{"model": "first", "max_tokens": 2}] * 4))
        yield watch


@pytest.fixture(scope="module")
def tasks_at_rest(watch: Watch) -> dict[str, int]:
    """The largest number of tasks of an idle replica, by application."""
    seen: dict[str, int] = {}
    for _ in range(20):
        for name, replicas in watch().items():
            seen[name] = max([seen.get(name, 0), *(counts["tasks"] for counts in replicas)])
        time.sleep(0.1)
    return seen


@pytest.fixture(autouse=True)
def _nothing_is_left(
    service: Service, watch: Watch, tasks_at_rest: dict[str, int]
) -> Iterator[None]:
    """After every test: no request, stream or task is left, and no socket to a dead replica."""
    yield
    wait_until(lambda: is_whole(watch()), timeout_s=60)
    wait_until(lambda: is_at_rest(watch(), tasks_at_rest), timeout_s=5)


def is_whole(counts: dict[str, list[Counts]]) -> bool:
    return (len(counts["ingress"]), len(counts["echo"])) == (INGRESS_REPLICAS, LLM_REPLICAS)


def is_at_rest(counts: dict[str, list[Counts]], tasks_at_rest: dict[str, int]) -> bool:
    return all(
        replica.get("requests", 0) == 0
        and replica["streams"] == 0
        and replica["leases"] == 0
        and replica.get("sockets", 0) <= INGRESS_REPLICAS
        and replica["tasks"] <= tasks_at_rest[name]
        for name, replicas in counts.items()
        for replica in replicas
    )


def total(counts: dict[str, list[Counts]], what: str) -> int:
    """The sum over the replicas of `echo`."""
    return sum(replica[what] for replica in counts["echo"])


async def read_while(
    service: Service, watch: Watch, tokens: int, action: Callable[[], Any], **members: Any
) -> tuple[list[StreamResult], float]:
    """Read 20 streams, call `action` once all run; return the results and the time of the call."""
    requests = [{"max_tokens": tokens, **members}] * 20
    reading = asyncio.ensure_future(read_all(service, requests))
    await asyncio.to_thread(wait_until, lambda: total(watch(), "requests") == 20, 20)
    await asyncio.sleep(0.5)
    called_at_s = time.monotonic()
    await asyncio.to_thread(action)
    return await reading, called_at_s


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


async def read_until_all_are_connected(service: Service, watch: Watch) -> list[StreamResult]:
    """Read sixty streams at a time, until every replica is connected to every other."""
    results: list[StreamResult] = []
    while len(results) < 600:
        results += await read_all(service, [{"max_tokens": 30}] * 60)
        await asyncio.sleep(0.3)
        if total(watch(), "sockets") == INGRESS_REPLICAS * LLM_REPLICAS:
            break
    return results


async def test_every_ingress_replica_reads_from_every_engine_replica(
    service: Service, watch: Watch
):
    results = await read_until_all_are_connected(service, watch)

    assert all(result.is_complete(30) for result in results)
    assert [replica["sockets"] for replica in watch()["echo"]] == [INGRESS_REPLICAS] * LLM_REPLICAS
    assert [replica["dropped"] for replica in watch()["ingress"]] == [0] * INGRESS_REPLICAS


async def test_requests_go_to_the_replica_that_has_loaded_their_adapter(
    service: Service, watch: Watch
):
    await read_all(service, [{"model": "loud", "max_tokens": 2}])
    await asyncio.sleep(3)  # until Serve has told its routers
    seen: list[list[int]] = []

    def look() -> None:
        seen.append(sorted(replica["requests"] for replica in watch()["echo"]))

    results, _ = await read_while(service, watch, 60, look, model="loud")

    assert seen == [[0, 20]]
    assert all(result.is_complete(60) for result in results)


async def test_interleaved_choices_are_each_complete(service: Service):
    results = await read_all(service, [{"max_tokens": 20, "n": 4}] * 10)

    assert all(result.is_complete(20) for result in results)
    assert all(sorted(result.texts) == [0, 1, 2, 3] for result in results)


async def test_engine_error_ends_each_stream_with_one_error_event(service: Service):
    results = await read_all(service, [{"model": "breaks", "max_tokens": 9}] * 10)

    assert [result.errors for result in results] == [["engine_error"]] * 10
    assert not any(result.is_done or result.is_cut for result in results)
    assert all(len(result.texts[0].split()) == 3 for result in results)


def busiest_ingress(watch: Watch) -> Counts:
    """The ingress replica with the most streams; HAProxy decides how many each one gets."""
    return max(watch()["ingress"], key=lambda counts: counts["streams"])


async def test_killed_ingress_replica_frees_the_engine_within_2_s(service: Service, watch: Watch):
    lost: list[Counts] = []
    freed_after_s: list[float] = []

    def happen() -> None:
        lost.append(busiest_ingress(watch))
        kill(lost[0]["pid"])
        freed_after_s.append(
            wait_until(lambda: total(watch(), "requests") == 20 - lost[0]["streams"], 10)
        )

    results, _ = await read_while(service, watch, 120, happen)

    assert freed_after_s[0] < 2
    assert sum(result.is_cut for result in results) == lost[0]["streams"] > 0
    assert all(result.is_cut != result.is_complete(120) for result in results)


async def test_frozen_ingress_replica_frees_the_engine_within_2_s(service: Service, watch: Watch):
    """As if its machine had died: the connection is not closed."""
    lost: list[Counts] = []
    freed_after_s: list[float] = []

    def happen() -> None:
        lost.append(busiest_ingress(watch))
        ingress = psutil.Process(lost[0]["pid"])
        ingress.suspend()
        try:
            freed_after_s.append(
                wait_until(lambda: total(watch(), "requests") == 20 - lost[0]["streams"], 10)
            )
            wait_until(lambda: total(watch(), "sockets") <= LLM_REPLICAS, 10)
        finally:
            ingress.resume()

    results, _ = await read_while(service, watch, 120, happen)

    assert freed_after_s[0] < 2
    assert sum(is_broken_off(result) for result in results) == lost[0]["streams"] > 0
    assert all(is_broken_off(result) or result.is_complete(120) for result in results)


async def test_killed_engine_replica_ends_its_streams_with_an_error_within_2_s(
    service: Service, watch: Watch
):
    lost: list[Counts] = []

    def happen() -> None:
        lost.append(max(watch()["echo"], key=lambda counts: counts["streams"]))
        kill(lost[0]["pid"])

    results, killed_at_s = await read_while(service, watch, 120, happen)

    broken = [result for result in results if is_broken_off(result)]
    assert len(broken) == lost[0]["streams"] > 0
    assert all(result.is_complete(120) for result in results if result not in broken)
    assert max(result.ended_at_s for result in broken) - killed_at_s < 2


async def test_frozen_engine_replica_continues_its_streams(service: Service, watch: Watch):
    engine = psutil.Process(watch()["echo"][0]["pid"])

    def happen() -> None:
        engine.suspend()
        time.sleep(3)
        engine.resume()

    results, _ = await read_while(service, watch, 60, happen)

    assert all(result.is_complete(60) for result in results)


def is_scaled(counts: dict[str, list[Counts]], ingress: int, llm: int) -> bool:
    """Whether each application has that many replicas, and no socket to a dead one."""
    sockets = [replica["sockets"] for replica in counts["echo"]]
    return len(counts["ingress"]) == ingress and len(sockets) == llm and max(sockets) <= ingress


@pytest.mark.parametrize(("ingress", "llm"), [(1, 2), (2, 1)], ids=["ingress", "engine"])
async def test_scaling_down_lets_streams_finish(
    service: Service, watch: Watch, ingress: int, llm: int
):
    def happen() -> None:
        service.deploy(configure(ingress, llm))

    try:
        results, _ = await read_while(service, watch, 120, happen)
        await asyncio.to_thread(wait_until, lambda: is_scaled(watch(), ingress, llm), 60)
    finally:
        await asyncio.to_thread(service.deploy, configure(INGRESS_REPLICAS, LLM_REPLICAS))
        await asyncio.to_thread(wait_until, lambda: is_whole(watch()), 60)
        await read_all(service, [{"max_tokens": 2}] * 20)

    assert all(result.is_complete(120) for result in results)


async def test_scaling_beside_short_requests_loses_none_and_a_new_replica_gets_its_share(
    service: Service, watch: Watch
):
    """Leases go from one request to the next, and must not keep to the replicas that they have."""
    is_over = asyncio.Event()
    results: list[StreamResult] = []

    async def ask(client: httpx.AsyncClient) -> None:
        while not is_over.is_set():
            results.append(result := StreamResult("a b c"))
            await read(client, result, max_tokens=2)

    def both_are_busy() -> bool:
        return len(watch()["echo"]) == 2 and all(each["requests"] for each in watch()["echo"])

    async with new_client(service) as client, asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(ask(client))
        try:
            await asyncio.to_thread(service.deploy, configure(INGRESS_REPLICAS, 1))
            await asyncio.to_thread(wait_until, lambda: len(watch()["echo"]) == 1, 60)
            await asyncio.to_thread(service.deploy, configure(INGRESS_REPLICAS, LLM_REPLICAS))
            await asyncio.to_thread(wait_until, lambda: is_whole(watch()), 60)
            shared_after_s = await asyncio.to_thread(wait_until, both_are_busy, 20)
        finally:
            is_over.set()

    assert all(result.is_complete(2) for result in results)
    assert shared_after_s < 10


async def test_deadline_ends_the_stream_and_frees_the_engine(service: Service, watch: Watch):
    started_at_s = time.monotonic()
    results = await read_all(service, [{"max_tokens": 100_000}] * 3)
    freed_after_s = await asyncio.to_thread(wait_until, lambda: total(watch(), "requests") == 0, 10)

    assert [result.errors for result in results] == [["deadline_exceeded"]] * 3
    assert not any(result.is_done or result.is_cut for result in results)
    assert DEADLINE_S - 1 < results[0].ended_at_s - started_at_s < DEADLINE_S + 2
    assert freed_after_s < 2


async def test_500_disconnecting_clients_free_the_engine(service: Service, watch: Watch):
    await connect_and_disconnect(service, 500, model="echo", max_tokens=2000)
    left_after_s = await asyncio.to_thread(wait_until, lambda: total(watch(), "requests") == 0, 20)
    results = await read_all(service, [{"max_tokens": 5}] * 100)

    assert left_after_s < 5
    assert all(result.is_complete(5) for result in results)


async def test_messages_with_unknown_stream_ids_are_dropped(service: Service, watch: Watch):
    pid, dropped_before = watch()["ingress"][0]["pid"], watch()["ingress"][0]["dropped"]
    files = {each.laddr for each in psutil.Process(pid).net_connections("unix")}
    (path,) = {file for file in files if "/triptych-channel-" in file}

    def has_dropped_all() -> bool:
        (counts,) = [each for each in watch()["ingress"] if each["pid"] == pid]
        return counts["dropped"] >= dropped_before + 500

    def flood() -> None:
        with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(f"ipc://{path}")
            for _ in range(500):
                socket.send(b"\x91\x95\xc4\x10" + os.urandom(16) + b"\x00\x00\xa1x\xc0")
            wait_until(has_dropped_all, 10)

    results, _ = await read_while(service, watch, 60, flood)

    assert all(result.is_complete(60) for result in results)


def test_no_port_of_a_replica_speaks_the_channels_protocol(service: Service):
    """On one machine the channels are socket files that no other account can open."""
    folders = set[Path]()
    for replicas in service.replica_pids().values():
        for pid in replicas:
            process = psutil.Process(pid)
            for each in process.net_connections("tcp"):
                if each.status == psutil.CONN_LISTEN:
                    assert not has_zmq_greeting(each.laddr.ip, each.laddr.port)
            files = (each.laddr for each in process.net_connections("unix"))
            folders |= {Path(file).parent for file in files if "/triptych-channel-" in file}

    assert folders
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


def has_zmq_greeting(host: str, port: int) -> bool:
    """Whether a port begins with ZeroMQ's signature (rfc.zeromq.org/spec/37)."""
    with socket.create_connection((host, port), 5) as client:
        client.settimeout(0.2)
        try:
            return client.recv(10)[:1] == b"\xff"
        except (TimeoutError, ConnectionResetError):
            return False
