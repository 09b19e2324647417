import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import OverloadedError
from deployments.models.fair_queue import FairQueue


class Runner:
    """Requests that hold their slots until ended, and the order in which they began."""

    def __init__(self, capacity: int, max_waiting: int = 1000):
        self.now_s = 0.0
        self.queue = FairQueue(capacity, max_waiting, lambda: self.now_s)
        self.begun: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.ends: dict[str, asyncio.Event] = {}

    async def ask(self, name: str, tenant: str = "a", priority="normal", size: int = 1) -> None:
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, tenant, priority, size))
        await asyncio.sleep(0)

    async def _hold(self, name, tenant, priority, size) -> None:
        async with self.queue.acquire(tenant, priority, size):
            self.begun.append(name)
            await self.ends[name].wait()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await asyncio.wait({self.tasks[name]})
        await asyncio.sleep(0)

    async def cancel(self, name: str) -> None:
        self.tasks[name].cancel()
        await asyncio.wait({self.tasks[name]})
        await asyncio.sleep(0)


async def test_requests_begin_at_once_while_slots_are_free():
    runner = Runner(4)
    for name in ("1", "2", "3"):
        await runner.ask(name)

    assert runner.begun == ["1", "2", "3"]
    assert (runner.queue.used, runner.queue.waiting) == (3, 0)


async def test_request_is_told_that_it_waits_and_that_its_turn_has_come():
    queue, told = FairQueue(1, 10), list[bool]()
    async with queue.acquire("a", on_waiting=told.append):
        told_while_free = told.copy()
        waiting = asyncio.create_task(hold(queue, told))
        await asyncio.sleep(0)
        told_while_taken = told.copy()
    await waiting

    assert (told_while_free, told_while_taken, told) == ([], [True], [True, False])


async def hold(queue: FairQueue, told: list[bool]) -> None:
    async with queue.acquire("a", on_waiting=told.append):
        pass


async def test_tenants_alternate_and_each_keeps_its_order():
    runner = Runner(1)
    for name in ("a1", "a2", "a3", "a4", "b1", "b2"):
        await runner.ask(name, tenant=name[0])
    for name in ("a1", "a2", "b1", "a3", "b2", "a4"):
        await runner.end(name)

    assert runner.begun == ["a1", "a2", "b1", "a3", "b2", "a4"]


async def test_higher_classes_come_first():
    runner = Runner(1)
    await runner.ask("first")
    await runner.ask("low", priority="low")
    await runner.ask("normal")
    await runner.ask("high", priority="high")
    for name in ("first", "high", "normal", "low"):
        await runner.end(name)

    assert runner.begun == ["first", "high", "normal", "low"]


async def test_reserved_slot_serves_an_active_tenant_during_a_flood_of_another():
    runner = Runner(8)
    await runner.ask("b1", tenant="b")
    await runner.end("b1")
    for number in range(50):
        await runner.ask(f"a{number}", tenant="a")
    await runner.ask("b2", tenant="b")

    assert "b2" in runner.begun
    assert runner.queue.used == 8


async def test_tenant_gets_all_slots_when_no_other_was_active_in_the_last_minute():
    runner = Runner(8)
    await runner.ask("b1", tenant="b")
    await runner.end("b1")
    runner.now_s = 61
    for number in range(9):
        await runner.ask(f"a{number}", tenant="a")

    assert runner.queue.used == 8


async def test_smaller_request_does_not_overtake_a_large_one():
    runner = Runner(4)
    await runner.ask("small", size=1)
    await runner.ask("large", size=4)
    await runner.ask("next", size=1)
    assert runner.begun == ["small"]

    await runner.end("small")
    assert runner.begun == ["small", "large"]


async def test_request_larger_than_the_engine_gets_all_slots():
    runner = Runner(4)
    await runner.ask("large", size=100)

    assert runner.begun == ["large"]
    assert runner.queue.used == 4


async def test_request_above_max_waiting_is_rejected():
    runner = Runner(1, max_waiting=2)
    for name in ("1", "2", "3", "4"):
        await runner.ask(name)

    with pytest.raises(OverloadedError):
        await runner.tasks["4"]
    assert runner.queue.waiting == 2


async def test_full_queue_rejects_the_tenant_with_most_waiting_requests():
    runner = Runner(1, max_waiting=3)
    for name in ("a0", "a1", "a2", "a3"):
        await runner.ask(name, tenant="a")
    await runner.ask("b1", tenant="b")

    with pytest.raises(OverloadedError):
        await runner.tasks["a3"]
    assert not runner.tasks["b1"].done()
    assert runner.queue.waiting == 3


async def test_cancelled_waiting_request_takes_no_slot():
    runner = Runner(1)
    for name in ("1", "2", "3"):
        await runner.ask(name)
    await runner.cancel("2")
    await runner.end("1")

    assert runner.begun == ["1", "3"]
    assert (runner.queue.used, runner.queue.waiting) == (1, 0)


async def test_request_cancelled_as_it_is_admitted_frees_its_slot():
    runner = Runner(1)
    for name in ("1", "2", "3"):
        await runner.ask(name)
    runner.ends["1"].set()
    for _ in range(3):
        await asyncio.sleep(0)
        runner.tasks["2"].cancel()
    await asyncio.wait({runner.tasks["2"]})
    await asyncio.sleep(0)

    assert "3" in runner.begun
    assert runner.queue.used == 1


async def test_requests_cancelled_at_once_free_all_slots():
    runner = Runner(8)
    for number in range(50):
        await runner.ask(str(number))
    for task in runner.tasks.values():
        task.cancel()
    await asyncio.wait(runner.tasks.values())

    assert all(task.cancelled() for task in runner.tasks.values())
    assert (runner.queue.used, runner.queue.waiting) == (0, 0)


async def test_rejecting_a_request_that_is_already_cancelled_is_safe():
    runner = Runner(1, max_waiting=1)
    await runner.ask("1")
    await runner.ask("2")
    runner.tasks["2"].cancel()
    runner.ends["3"] = asyncio.Event()
    runner.tasks["3"] = asyncio.create_task(runner._hold("3", "a", "normal", 1))
    await asyncio.wait({runner.tasks["2"]})
    await runner.end("1")

    assert runner.begun == ["1", "3"]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["high", "low"]), st.integers(1, 5)),
        max_size=30,
    ),
    st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_capacity_is_never_exceeded_and_all_slots_are_free_at_the_end(requests, cancels):
    async def run() -> None:
        runner = Runner(4)
        for number, (tenant, priority, size) in enumerate(requests):
            await runner.ask(str(number), tenant, priority, size)
            assert runner.queue.used <= 4
            if cancels[number]:
                await runner.cancel(str(number // 2))
        while not all(task.done() for task in runner.tasks.values()):
            under_way = [name for name in runner.begun if not runner.tasks[name].done()]
            await asyncio.gather(*map(runner.end, under_way))
            assert runner.queue.used <= 4
        assert (runner.queue.used, runner.queue.waiting) == (0, 0)

    asyncio.run(run())
