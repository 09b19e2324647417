"""Ingress replicas that share a look, with one clock that the test moves."""

from collections.abc import Mapping
from typing import Any

import pytest

from deployments.ingress.shared_look import SharedLook
from tests.helpers.cluster_store import DictStore

INTERVAL_S = 2.0


class Cluster:
    """Serve's controller, the store, and ingress replicas that look one after the other."""

    def __init__(self, count: int = 3) -> None:
        self.store = DictStore()
        self.name = "m"
        self.is_down = False
        self.looks: list[int] = []
        """Which replica has looked."""
        self.known: dict[int, str] = {}
        self.now_s = 100.0
        self.replicas = [self.start(number) for number in range(count)]

    def start(self, number: int) -> SharedLook:
        async def look() -> Mapping[str, Any]:
            self.looks.append(number)
            if self.is_down:
                raise OSError("the controller restarts")
            application = {"status": "RUNNING", "deployed_app_config": {}, "deployments": {}}
            return {"applications": {self.name: application}}

        return SharedLook(look, self.store, interval_s=INTERVAL_S, clock=lambda: self.now_s)

    async def poll(self, *numbers: int) -> list[str | None]:
        """Let some replicas fetch, all if none is named: what each of them knows then."""
        chosen = numbers or tuple(range(len(self.replicas)))
        for number in chosen:
            self.now_s += INTERVAL_S / len(chosen)
            if details := await self.replicas[number].fetch():
                self.known[number] = next(iter(details["applications"]))
        return [self.known.get(number) for number in chosen]

    def pop_looks(self) -> list[int]:
        looks, self.looks = self.looks, []
        return looks


async def started(count: int = 3) -> Cluster:
    """Replicas of which each has looked once, as it does when it starts."""
    cluster = Cluster(count)
    await cluster.poll()
    await cluster.poll()
    cluster.pop_looks()
    cluster.store.calls.clear()
    return cluster


async def test_first_call_looks() -> None:
    cluster = Cluster()

    assert await cluster.poll() == ["m", "m", "m"]
    assert cluster.looks == [0, 1, 2]


async def test_one_replica_looks_for_all_and_the_others_read_the_stamp() -> None:
    cluster = await started()

    for _ in range(10):
        await cluster.poll()

    assert cluster.looks == [2] * 10
    assert cluster.store.calls.count(("get", "serve/stamp")) == 30
    assert cluster.store.calls.count(("get", "serve/details")) == 0


async def test_only_replica_sees_a_change_at_its_next_call() -> None:
    cluster = await started(1)
    cluster.name = "n"

    assert await cluster.poll() == ["n"]


async def test_others_see_a_change_at_their_call_after_that() -> None:
    cluster = await started()
    cluster.name = "n"

    assert await cluster.poll() == ["m", "m", "n"]
    assert await cluster.poll() == ["n", "n", "n"]
    assert cluster.store.calls.count(("get", "serve/details")) == 2


async def test_one_of_the_others_goes_on_when_the_one_that_looks_is_gone() -> None:
    cluster = await started()
    cluster.name = "n"

    seen = [await cluster.poll(0, 1) for _ in range(6)]

    assert seen[0] == ["m", "m"]
    assert seen[5] == ["n", "n"]
    assert set(cluster.looks) in ({0}, {1})


async def test_new_replica_looks_for_all() -> None:
    """It need not know whether what is in the store is old."""
    cluster = await started()
    cluster.replicas.append(cluster.start(3))
    await cluster.poll()
    cluster.pop_looks()

    await cluster.poll()

    assert cluster.looks == [3]


async def test_one_that_slept_does_not_look_again() -> None:
    cluster = await started()
    for _ in range(4):
        await cluster.poll(0, 1)
    cluster.pop_looks()

    await cluster.poll()
    await cluster.poll()

    assert 2 not in cluster.looks


async def test_failed_look_is_repeated_at_the_next_call() -> None:
    cluster = await started(1)
    cluster.is_down = True
    with pytest.raises(OSError, match="restarts"):
        await cluster.poll()
    cluster.is_down, cluster.name = False, "n"

    assert await cluster.poll() == ["n"]


async def test_replica_that_cannot_look_leaves_it_to_the_others() -> None:
    cluster = await started(2)
    cluster.is_down = True
    for _ in range(4):
        with pytest.raises(OSError, match="restarts"):
            await cluster.poll(1)
    cluster.is_down = False
    for _ in range(5):
        await cluster.poll(0)
    cluster.pop_looks()

    await cluster.poll(1, 0)

    assert cluster.looks == [0]


@pytest.mark.parametrize("count", [1, 3])
async def test_without_the_store_every_replica_looks(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = await started(count)
    cluster.store.is_down = True
    cluster.name = "n"

    assert await cluster.poll() == ["n"] * count
    assert len(cluster.looks) == count
    assert "cannot be read" in caplog.text


async def test_first_look_needs_no_store(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(1)
    cluster.store.is_down = True

    assert await cluster.poll() == ["m"]
    assert "other ingress replicas cannot read" in caplog.text


async def test_what_was_seen_without_the_store_is_replaced_when_it_is_back() -> None:
    cluster = await started()
    cluster.store.is_down = True
    cluster.name = "n"
    await cluster.poll()
    cluster.store.is_down = False
    cluster.name = "m"

    assert await cluster.poll(2, 0, 1) == ["m", "m", "m"]


async def test_old_stamp_is_not_believed_after_others_have_said_what_serve_runs() -> None:
    """Their details are newer than what the store had when the ingress replicas started."""
    cluster = await started()
    for replica in cluster.replicas:
        replica.stop_following()
    cluster.name = "n"
    cluster.store.values["serve/details"] = b"must not be read"

    assert await cluster.poll(0, 1) == ["m", "m"]
    assert await cluster.poll(0, 1) == ["n", "n"]
    assert cluster.looks == [0]


async def test_details_that_are_missing_are_read_later() -> None:
    cluster = await started()
    cluster.name = "n"
    await cluster.poll(2)
    del cluster.store.values["serve/details"]
    meanwhile = await cluster.poll(0)
    await cluster.poll(2)

    assert (meanwhile, await cluster.poll(0)) == (["m"], ["n"])
