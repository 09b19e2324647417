import asyncio
from collections.abc import Sequence

import pytest

from api.ports.tenancy import RequestContext
from deployments.engines.fair_turns import FairTurns


def start(
    turns: FairTurns, tenants: Sequence[str], order: list[str], may_end: asyncio.Event
) -> list["asyncio.Task[None]"]:
    """Let each tenant, in this order, ask for a turn and keep it until it may end."""

    async def work(name: str) -> None:
        async with turns.turn(RequestContext(tenant=name[0])):
            order.append(name)
            await may_end.wait()

    return [asyncio.create_task(work(name)) for name in tenants]


async def settle() -> None:
    """Let all tasks run until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_tenants_take_turns_whatever_they_have_waiting() -> None:
    turns, order, may_end = FairTurns(), list[str](), asyncio.Event()
    tasks = start(turns, ["a0", "a1", "a2", "a3", "b0", "b1"], order, may_end)
    await settle()
    may_end.set()
    await asyncio.gather(*tasks)

    assert order == ["a0", "a1", "b0", "a2", "b1", "a3"]


async def test_one_caller_works_at_a_time() -> None:
    turns, order, may_end = FairTurns(), list[str](), asyncio.Event()
    tasks = start(turns, ["a0", "b0"], order, may_end)
    await settle()

    assert order == ["a0"]
    may_end.set()
    await asyncio.gather(*tasks)


async def test_higher_class_is_served_first() -> None:
    turns, order = FairTurns(), list[str]()

    async def work(name: str, context: RequestContext) -> None:
        async with turns.turn(context):
            order.append(name)
            await asyncio.sleep(0)

    await asyncio.gather(
        work("first", RequestContext()),
        work("low", RequestContext(priority="low")),
        work("normal", RequestContext()),
    )

    assert order == ["first", "normal", "low"]


async def test_cancelled_caller_gives_up_its_place() -> None:
    turns, order, may_end = FairTurns(), list[str](), asyncio.Event()
    tasks = start(turns, ["a0", "b0", "c0"], order, may_end)
    await settle()
    tasks[1].cancel()
    may_end.set()
    await asyncio.wait(tasks)

    assert order == ["a0", "c0"]


async def test_turn_given_to_a_cancelled_caller_goes_to_the_next() -> None:
    turns, order, may_end = FairTurns(), list[str](), asyncio.Event()
    async with turns.turn(RequestContext()):
        tasks = start(turns, ["b0", "c0"], order, may_end)
        await settle()
    tasks[0].cancel()  # it has been given the turn, and does not know yet
    may_end.set()
    await asyncio.wait(tasks)

    assert order == ["c0"]


async def test_turn_ends_with_an_error() -> None:
    turns = FairTurns()
    with pytest.raises(ZeroDivisionError):
        async with turns.turn(RequestContext()):
            raise ZeroDivisionError

    async with turns.turn(RequestContext()):
        pass
