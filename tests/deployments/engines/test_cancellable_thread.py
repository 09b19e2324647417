import asyncio
import threading
from functools import partial

import pytest

from deployments.engines.cancellable_thread import Cancellation, WorkCancelledError, Worker

PATIENCE_S = 5


@pytest.fixture
def worker():
    worker = Worker("test")
    yield worker
    worker.shut_down()


async def test_result_is_passed_on(worker: Worker) -> None:
    assert await worker.run(lambda cancellation: 7) == 7


async def test_exception_is_passed_on(worker: Worker) -> None:
    with pytest.raises(ZeroDivisionError):
        await worker.run(lambda cancellation: 1 // 0)


async def test_work_runs_in_one_thread_that_is_not_the_callers(worker: Worker) -> None:
    first = await worker.run(lambda cancellation: threading.get_ident())
    second = await worker.run(lambda cancellation: threading.get_ident())

    assert first == second != threading.get_ident()


async def test_event_loop_stays_free(worker: Worker) -> None:
    go = threading.Event()
    running = asyncio.create_task(worker.run(lambda cancellation: go.wait(PATIENCE_S)))

    await asyncio.sleep(0)
    go.set()

    assert await running


async def test_work_is_done_in_the_order_of_asking(worker: Worker) -> None:
    done: list[int] = []

    def note(number: int, cancellation: Cancellation) -> None:
        done.append(number)

    await asyncio.gather(*(worker.run(partial(note, number)) for number in range(20)))

    assert done == list(range(20))


async def test_work_that_is_cancelled_before_its_start_never_starts(worker: Worker) -> None:
    go = threading.Event()
    started: list[str] = []
    first = asyncio.create_task(worker.run(lambda cancellation: go.wait(PATIENCE_S)))
    second = asyncio.create_task(worker.run(lambda cancellation: started.append("second")))
    await asyncio.sleep(0)

    second.cancel()
    await asyncio.wait({second})
    go.set()
    await first
    await worker.run(lambda cancellation: None)

    assert second.cancelled()
    assert started == []


async def test_work_that_is_cancelled_stops_at_its_next_check(worker: Worker) -> None:
    begun, go, outcome = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def work(cancellation: Cancellation) -> None:
        cancellation.check()
        loop.call_soon_threadsafe(begun.set)
        go.wait(PATIENCE_S)
        try:
            cancellation.check()
        except WorkCancelledError:
            outcome.append("stopped")
            raise
        outcome.append("went on")

    running = asyncio.create_task(worker.run(work))
    await begun.wait()
    running.cancel()
    await asyncio.wait({running})
    go.set()
    await worker.run(lambda cancellation: None)

    assert running.cancelled()
    assert outcome == ["stopped"]


async def test_caller_that_is_cancelled_does_not_wait_for_the_step(worker: Worker) -> None:
    go = threading.Event()
    running = asyncio.create_task(worker.run(lambda cancellation: go.wait(PATIENCE_S)))
    await asyncio.sleep(0)

    running.cancel()
    _, pending = await asyncio.wait({running}, timeout=PATIENCE_S / 2)
    go.set()

    assert not pending


async def test_next_work_is_not_touched_by_a_cancellation(worker: Worker) -> None:
    first = asyncio.create_task(worker.run(lambda cancellation: None))
    await asyncio.sleep(0)
    first.cancel()

    await worker.run(lambda cancellation: cancellation.check())


def test_check_passes_until_cancelled() -> None:
    cancellation = Cancellation()
    cancellation.check()

    cancellation.cancel()

    with pytest.raises(WorkCancelledError):
        cancellation.check()


async def test_worker_that_is_shut_down_takes_no_more_work() -> None:
    worker = Worker("test")
    worker.shut_down()

    with pytest.raises(RuntimeError):
        await worker.run(lambda cancellation: None)
