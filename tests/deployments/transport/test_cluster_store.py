"""The store with a client in place of Ray's; tests/cluster has it with a cluster."""

import asyncio
from typing import Any

import pytest

from deployments.transport.cluster_store import ClusterStoreError, GcsStore


class FakeClient:
    """Ray's client: its methods return futures, which the test may leave open."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.error: Exception | None = None
        self.is_hanging = False
        self.answers: list[asyncio.Future[Any]] = []
        self.options: list[dict[str, Any]] = []

    def async_internal_kv_put(
        self, key: bytes, value: bytes, overwrite: bool, **options: Any
    ) -> "asyncio.Future[Any]":
        if overwrite or key not in self.values:
            self.values[key] = value
        return self._answer(True, options)

    def async_internal_kv_get(self, key: bytes, **options: Any) -> "asyncio.Future[Any]":
        return self._answer(self.values.get(key), options)

    def async_internal_kv_multi_get(
        self, keys: list[bytes], **options: Any
    ) -> "asyncio.Future[Any]":
        found = {key: self.values[key] for key in keys if key in self.values}
        return self._answer(found, options)

    def _answer(self, value: Any, options: dict[str, Any]) -> "asyncio.Future[Any]":
        self.options.append(options)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        if self.error is not None:
            answer.set_exception(self.error)
        elif not self.is_hanging:
            answer.set_result(value)
        return answer


async def test_value_is_there_until_it_is_replaced() -> None:
    client = FakeClient()
    store = GcsStore(lambda: client)
    before = await store.get("a")
    await store.put("a", b"1")
    first = await store.get("a")
    await store.put("a", b"2")

    assert (before, first, await store.get("a")) == (None, b"1", b"2")


async def test_many_values_take_one_call_with_a_timeout_in_a_namespace_of_ours() -> None:
    client = FakeClient()
    client.values = {b"a": b"1", b"b": b"2"}

    found = await GcsStore(lambda: client, timeout_s=7).get_many(["a", "b", "none"])

    assert found == {"a": b"1", "b": b"2"}
    assert client.options == [{"namespace": b"triptych", "timeout": 7}]


async def test_lost_gcs_is_one_kind_of_error() -> None:
    client = FakeClient()
    client.error = OSError("Deadline Exceeded")

    with pytest.raises(ClusterStoreError, match="Deadline Exceeded"):
        await GcsStore(lambda: client).get("a")


async def test_process_outside_of_a_cluster_has_no_store() -> None:
    with pytest.raises(ClusterStoreError):
        await GcsStore(lambda: None).put("a", b"1")


async def test_caller_that_leaves_does_not_cancel_what_ray_will_answer() -> None:
    client = FakeClient()
    client.is_hanging = True
    reading = asyncio.create_task(GcsStore(lambda: client).get("a"))
    await asyncio.sleep(0)

    reading.cancel()
    await asyncio.wait([reading])

    assert reading.cancelled()
    client.answers[0].set_exception(OSError("too late"))  # would raise if it were cancelled
