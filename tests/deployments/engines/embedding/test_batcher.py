import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.ports.tenancy import RequestContext
from deployments.engines.embedding.batcher import HEALTH, Batcher

PATIENCE_S = 5.0
POISON = -1


class Model:
    """Sums ids: what a sequence gives does not depend on those beside it."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()

    def __call__(self, sequences: Sequence[Any]) -> np.ndarray:
        self.batches.append([list(each) for each in sequences])
        self.begun.set()
        self.go.wait(PATIENCE_S)
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
    model.go.set()
    batcher.shut_down()


async def hold(model: Model, batcher: Batcher) -> "asyncio.Task[np.ndarray]":
    """Keep the thread busy, until `model.go` is set."""
    model.go.clear()
    busy = asyncio.create_task(batcher.run([[0]]))
    await asyncio.to_thread(model.begun.wait, PATIENCE_S)
    model.batches.clear()
    return busy


def wait_until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.01)


async def start(batcher: Batcher, *requests: list[list[int]], tenant: str = "") -> list[Any]:
    context = RequestContext(tenant=tenant)
    tasks = [asyncio.create_task(batcher.run(request, context)) for request in requests]
    await asyncio.sleep(0)
    return tasks


async def test_rows_come_in_the_order_of_the_sequences(batcher: Batcher) -> None:
    rows = await batcher.run([[1, 2, 3], [4], [5, 6]])

    assert rows.tolist() == [[6, 3], [4, 1], [11, 2]]


async def test_one_that_comes_alone_waits_for_nobody(model: Model, batcher: Batcher) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await batcher.run([[1]])

    assert model.batches == [[[1]]]


async def test_what_waits_is_computed_together(model: Model, batcher: Batcher) -> None:
    busy = await hold(model, batcher)
    waiting = await start(batcher, [[1], [2, 2]], [[3]], [[4, 4]])

    model.go.set()
    await asyncio.gather(busy, *waiting)

    assert model.batches == [[[1], [3], [2, 2], [4, 4]]]
    assert waiting[0].result().tolist() == [[1, 1], [4, 2]]


async def test_short_request_does_not_wait_for_all_of_a_long_one(
    model: Model, batcher: Batcher
) -> None:
    busy = await hold(model, batcher)
    long, short = await start(batcher, [[1] * 90 for _ in range(20)], [[7]])

    model.go.set()
    await asyncio.gather(busy, long, short)

    assert model.batches.index([[7]]) == 1


async def test_tenants_take_turns(model: Model, batcher: Batcher) -> None:
    busy = await hold(model, batcher)
    flood = await start(batcher, *[[[1] * 90] for _ in range(20)], tenant="a")
    (other,) = await start(batcher, [[2] * 60], tenant="b")

    model.go.set()
    await asyncio.gather(busy, other, *flood)

    assert model.batches.index([[2] * 60]) == 1


async def test_cancelled_request_is_not_computed(model: Model, batcher: Batcher) -> None:
    busy = await hold(model, batcher)
    gone, kept = await start(batcher, [[1], [1] * 50], [[2]])

    gone.cancel()
    await asyncio.wait({gone})
    model.go.set()
    await asyncio.gather(busy, kept)

    assert model.batches == [[[2]]]


async def test_cancelled_request_harms_none_of_its_batch(model: Model, batcher: Batcher) -> None:
    busy = await hold(model, batcher)
    gone, kept = await start(batcher, [[1], [1] * 90], [[2]])
    model.begun.clear()
    model.go.set()
    await asyncio.to_thread(model.begun.wait, PATIENCE_S)
    gone.cancel()

    assert (await kept).tolist() == [[2, 1]]
    await busy


async def test_failure_is_its_own_request_s_alone(model: Model, batcher: Batcher) -> None:
    busy = await hold(model, batcher)
    bad, good = await start(batcher, [[POISON], [1] * 90], [[2]])

    model.go.set()
    await asyncio.gather(busy, bad, good, return_exceptions=True)

    assert isinstance(bad.exception(), ZeroDivisionError)
    assert good.result().tolist() == [[2, 1]]
    assert (await batcher.run([[3]])).tolist() == [[3, 1]]


async def test_as_many_batches_at_once_as_threads() -> None:
    meeting = threading.Barrier(2)

    def compute(sequences: Sequence[Any]) -> np.ndarray:
        meeting.wait(PATIENCE_S)
        return np.array([sum(each) for each in sequences], np.float32)

    batcher = Batcher(compute, 100, threads=2)
    try:
        rows = await batcher.run([[1] * 90, [1] * 80, [2] * 90, [2] * 80])
    finally:
        batcher.shut_down()

    assert rows.tolist() == [90, 80, 180, 160]


async def test_thread_learns_how_long_a_batch_is_and_whether_it_is_alone() -> None:
    model, told = Model(), list[tuple[int, bool]]()
    batcher = Batcher(model, 100, threads=2, prepare=lambda *each: told.append(each))
    try:
        alone = await hold(model, batcher)
        beside = await start(batcher, [[1]])
        await asyncio.to_thread(wait_until, lambda: len(told) == 2)
        model.go.set()
        await asyncio.gather(alone, *beside)
        await asyncio.to_thread(wait_until, lambda: not batcher._under_way)
        await batcher.run([[1, 1], [1]])
    finally:
        batcher.shut_down()

    assert told == [(1, True), (1, False), (4, True)]


async def test_no_work_is_taken_after_the_end(batcher: Batcher) -> None:
    batcher.shut_down()

    with pytest.raises(RuntimeError):
        await batcher.run([[1]])


IDS = st.lists(st.integers(0, 9), min_size=1, max_size=90)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(IDS, min_size=1, max_size=12), min_size=1, max_size=12),
    st.integers(1, 3),
    st.randoms(),
)
def test_answers_are_the_same_in_any_company(
    requests: list[list[list[int]]], threads: int, chance: random.Random
) -> None:
    """Whoever else is there, and whoever leaves."""

    async def run() -> None:
        batcher = Batcher(Model(), 100, threads=threads)
        tasks = [asyncio.create_task(batcher.run(request)) for request in requests]
        leaving = [task for task in tasks if chance.random() < 0.3]
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        await asyncio.wait(tasks)
        batcher.shut_down()
        for request, task in zip(requests, tasks, strict=True):
            expected = [[sum(ids), len(ids)] for ids in request]
            assert task.cancelled() or task.result().tolist() == expected
        assert all(task in leaving for task in tasks if task.cancelled())

    asyncio.run(run())


async def test_health_check_does_not_wait_for_the_end_of_the_highest_class(
    model: Model, batcher: Batcher
) -> None:
    busy = await hold(model, batcher)
    context = RequestContext(tenant="flood", priority="high")
    flood = [asyncio.create_task(batcher.run([[1] * 100], context)) for _ in range(20)]
    await asyncio.sleep(0)
    check = asyncio.create_task(batcher.run([[2]], HEALTH))
    await asyncio.sleep(0)

    model.go.set()
    await asyncio.gather(busy, check, *flood)

    assert [2] in model.batches[0] + model.batches[1]
