import asyncio
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from deployments.engines.cancellable_thread import (
    CancellableThread,
    Cancellation,
    WorkCancelledError,
)

TIMEOUT_S = 5


@pytest.fixture
def thread() -> Iterator[CancellableThread]:
    thread = CancellableThread("test")
    yield thread
    thread.shut_down()


async def test_run_returns_what_the_work_returns(thread: CancellableThread) -> None:
    assert await thread.run(lambda cancellation: 7) == 7


async def test_run_raises_what_the_work_raises(thread: CancellableThread) -> None:
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda cancellation: 1 // 0)


async def test_all_work_runs_in_one_other_thread(
    thread: CancellableThread,
) -> None:
    first = await thread.run(lambda cancellation: threading.get_ident())
    second = await thread.run(lambda cancellation: threading.get_ident())

    assert first == second != threading.get_ident()


async def test_event_loop_is_not_blocked(thread: CancellableThread) -> None:
    go = threading.Event()
    running = asyncio.create_task(thread.run(lambda cancellation: go.wait(TIMEOUT_S)))

    await asyncio.sleep(0)
    go.set()

    assert await running


async def test_work_runs_first_in_first_out(thread: CancellableThread) -> None:
    done: list[int] = []

    def record(number: int, cancellation: Cancellation) -> None:
        done.append(number)

    await asyncio.gather(*(thread.run(partial(record, number)) for number in range(20)))

    assert done == list(range(20))


async def test_work_cancelled_while_queued_never_starts(thread: CancellableThread) -> None:
    go = threading.Event()
    started: list[str] = []
    first = asyncio.create_task(thread.run(lambda cancellation: go.wait(TIMEOUT_S)))
    second = asyncio.create_task(thread.run(lambda cancellation: started.append("second")))
    await asyncio.sleep(0)

    second.cancel()
    await asyncio.wait({second})
    go.set()
    await first
    await thread.run(lambda cancellation: None)

    assert second.cancelled()
    assert started == []


async def test_cancelled_work_stops_at_its_next_check(thread: CancellableThread) -> None:
    begun, go, outcome = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def work(cancellation: Cancellation) -> None:
        cancellation.check()
        loop.call_soon_threadsafe(begun.set)
        go.wait(TIMEOUT_S)
        try:
            cancellation.check()
        except WorkCancelledError:
            outcome.append("stopped")
            raise
        outcome.append("went on")

    running = asyncio.create_task(thread.run(work))
    await begun.wait()
    running.cancel()
    await asyncio.wait({running})
    go.set()
    await thread.run(lambda cancellation: None)

    assert running.cancelled()
    assert outcome == ["stopped"]


async def test_cancelled_caller_does_not_wait_for_the_work(thread: CancellableThread) -> None:
    go = threading.Event()
    running = asyncio.create_task(thread.run(lambda cancellation: go.wait(TIMEOUT_S)))
    await asyncio.sleep(0)

    running.cancel()
    _, pending = await asyncio.wait({running}, timeout=TIMEOUT_S / 2)
    go.set()

    assert not pending


async def test_cancellation_does_not_reach_the_next_work(thread: CancellableThread) -> None:
    first = asyncio.create_task(thread.run(lambda cancellation: None))
    await asyncio.sleep(0)
    first.cancel()

    await thread.run(lambda cancellation: cancellation.check())


def test_check_passes_until_cancelled() -> None:
    cancellation = Cancellation()
    cancellation.check()

    cancellation.cancel()

    with pytest.raises(WorkCancelledError):
        cancellation.check()


async def test_run_after_shut_down_raises() -> None:
    thread = CancellableThread("test")
    thread.shut_down()

    with pytest.raises(RuntimeError):
        await thread.run(lambda cancellation: None)
