import asyncio
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.ports.tenancy import RequestContext
from deployments.engines.embedding.batcher import HEALTH, Batcher

TIMEOUT_S = 5.0
POISON = -1


class Model:
    """Sums ids: the row of a sequence does not depend on its batch."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.may_continue = threading.Event()
        self.may_continue.set()
        self.has_begun = threading.Event()

    def __call__(self, sequences: Sequence[Any]) -> np.ndarray:
        self.batches.append([list(each) for each in sequences])
        self.has_begun.set()
        self.may_continue.wait(TIMEOUT_S)
        if any(POISON in each for each in sequences):
            raise ZeroDivisionError
        return np.array([[sum(each), len(each)] for each in sequences], np.float32)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def batcher(model: Model) -> Iterator[Batcher]:
    batcher = Batcher(model, 100)
    yield batcher
    model.may_continue.set()
    batcher.shut_down()


async def occupy(model: Model, batcher: Batcher) -> "asyncio.Task[np.ndarray]":
    """Keep the thread busy until `model.may_continue` is set."""
    model.may_continue.clear()
    busy = asyncio.create_task(batcher.run([[0]]))
    await asyncio.to_thread(model.has_begun.wait, TIMEOUT_S)
    model.batches.clear()
    return busy


async def start(batcher: Batcher, *requests: list[list[int]], tenant: str = "") -> list[Any]:
    context = RequestContext(tenant=tenant)
    tasks = [asyncio.create_task(batcher.run(request, context)) for request in requests]
    await asyncio.sleep(0)
    return tasks


async def test_rows_are_in_the_order_of_the_sequences(batcher: Batcher) -> None:
    rows = await batcher.run([[1, 2, 3], [4], [5, 6]])

    assert rows.tolist() == [[6, 3], [4, 1], [11, 2]]


async def test_lone_sequence_is_computed_at_once(model: Model, batcher: Batcher) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        await batcher.run([[1]])

    assert model.batches == [[[1]]]


async def test_waiting_sequences_are_computed_together(model: Model, batcher: Batcher) -> None:
    busy = await occupy(model, batcher)
    waiting = await start(batcher, [[1], [2, 2]], [[3]], [[4, 4]])

    model.may_continue.set()
    await asyncio.gather(busy, *waiting)

    assert model.batches == [[[1], [3], [2, 2], [4, 4]]]
    assert waiting[0].result().tolist() == [[1, 1], [4, 2]]


async def test_short_request_does_not_wait_for_a_whole_long_one(
    model: Model, batcher: Batcher
) -> None:
    busy = await occupy(model, batcher)
    long, short = await start(batcher, [[1] * 90 for _ in range(20)], [[7]])

    model.may_continue.set()
    await asyncio.gather(busy, long, short)

    assert model.batches.index([[7]]) == 1


async def test_tenants_alternate(model: Model, batcher: Batcher) -> None:
    busy = await occupy(model, batcher)
    flood = await start(batcher, *[[[1] * 90] for _ in range(20)], tenant="a")
    (other,) = await start(batcher, [[2] * 60], tenant="b")

    model.may_continue.set()
    await asyncio.gather(busy, other, *flood)

    assert model.batches.index([[2] * 60]) == 1


async def test_cancelled_request_is_not_computed(model: Model, batcher: Batcher) -> None:
    busy = await occupy(model, batcher)
    cancelled, kept = await start(batcher, [[1], [1] * 50], [[2]])

    cancelled.cancel()
    await asyncio.wait({cancelled})
    model.may_continue.set()
    await asyncio.gather(busy, kept)

    assert model.batches == [[[2]]]


async def test_cancelled_request_does_not_affect_its_batch(model: Model, batcher: Batcher) -> None:
    busy = await occupy(model, batcher)
    cancelled, kept = await start(batcher, [[1], [1] * 90], [[2]])
    model.has_begun.clear()
    model.may_continue.set()
    await asyncio.to_thread(model.has_begun.wait, TIMEOUT_S)
    cancelled.cancel()

    assert (await kept).tolist() == [[2, 1]]
    await busy


async def test_failure_is_confined_to_its_request(model: Model, batcher: Batcher) -> None:
    busy = await occupy(model, batcher)
    bad, good = await start(batcher, [[POISON], [1] * 90], [[2]])

    model.may_continue.set()
    await asyncio.gather(busy, bad, good, return_exceptions=True)

    assert isinstance(bad.exception(), ZeroDivisionError)
    assert good.result().tolist() == [[2, 1]]
    assert (await batcher.run([[3]])).tolist() == [[3, 1]]


async def test_threads_compute_batches_at_the_same_time() -> None:
    barrier = threading.Barrier(2)

    def compute(sequences: Sequence[Any]) -> np.ndarray:
        barrier.wait(TIMEOUT_S)
        return np.array([sum(each) for each in sequences], np.float32)

    batcher = Batcher(compute, 100, threads=2)
    try:
        rows = await batcher.run([[1] * 90, [1] * 80, [2] * 90, [2] * 80])
    finally:
        batcher.shut_down()

    assert rows.tolist() == [90, 80, 180, 160]


async def test_prepare_receives_the_tokens_of_a_batch_padding_included() -> None:
    prepared = list[tuple[int, bool]]()
    batcher = Batcher(Model(), 100, prepare=lambda *each: prepared.append(each))
    try:
        await batcher.run([[1]])
        await batcher.run([[1, 1], [1]])
    finally:
        batcher.shut_down()

    assert prepared == [(1, True), (4, True)]


async def test_prepare_is_told_that_another_thread_is_busy() -> None:
    model, prepared, both_prepared = Model(), list[tuple[int, bool]](), threading.Barrier(2)

    def prepare(tokens: int, is_alone: bool) -> None:
        prepared.append((tokens, is_alone))

    def compute(sequences: Sequence[Any]) -> np.ndarray:
        rows = model(sequences)
        both_prepared.wait(TIMEOUT_S)
        return rows

    batcher = Batcher(compute, 100, threads=2, prepare=prepare)
    try:
        first = asyncio.create_task(batcher.run([[1]]))
        await asyncio.to_thread(model.has_begun.wait, TIMEOUT_S)
        await batcher.run([[1]])
        await first
    finally:
        batcher.shut_down()

    assert prepared == [(1, True), (1, False)]


async def test_run_after_shutdown_fails(batcher: Batcher) -> None:
    batcher.shut_down()

    with pytest.raises(RuntimeError):
        await batcher.run([[1]])


IDS = st.lists(st.integers(0, 9), min_size=1, max_size=90)


@settings(max_examples=30)
@given(
    st.lists(st.lists(IDS, min_size=1, max_size=12), min_size=1, max_size=12),
    st.integers(1, 3),
    st.randoms(),
)
def test_rows_do_not_depend_on_other_requests(
    requests: list[list[list[int]]], threads: int, chance: random.Random
) -> None:
    """Not on those in the same batches, nor on cancelled ones."""

    async def run() -> None:
        batcher = Batcher(Model(), 100, threads=threads)
        tasks = [asyncio.create_task(batcher.run(request)) for request in requests]
        cancelled = [task for task in tasks if chance.random() < 0.3]
        await asyncio.sleep(0)
        for task in cancelled:
            task.cancel()
        await asyncio.wait(tasks)
        batcher.shut_down()
        for request, task in zip(requests, tasks, strict=True):
            expected = [[sum(ids), len(ids)] for ids in request]
            assert task.cancelled() or task.result().tolist() == expected
        assert all(task in cancelled for task in tasks if task.cancelled())

    asyncio.run(run())


async def test_health_check_does_not_wait_for_all_requests_of_the_highest_class(
    model: Model, batcher: Batcher
) -> None:
    busy = await occupy(model, batcher)
    context = RequestContext(tenant="flood", priority="high")
    flood = [asyncio.create_task(batcher.run([[1] * 100], context)) for _ in range(20)]
    await asyncio.sleep(0)
    check = asyncio.create_task(batcher.run([[2]], HEALTH))
    await asyncio.sleep(0)

    model.may_continue.set()
    await asyncio.gather(busy, check, *flood)

    assert [2] in model.batches[0] + model.batches[1]
