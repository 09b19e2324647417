import asyncio

import pytest

from api.http.run_now import run_now


async def test_coroutine_that_never_waits_has_ended() -> None:
    done = []

    async def work() -> None:
        done.append(1)

    assert run_now(work()) is None
    assert done == [1]


async def test_error_is_raised_at_once() -> None:
    async def work() -> None:
        raise ValueError("at once")

    with pytest.raises(ValueError, match="at once"):
        run_now(work())


async def test_rest_of_a_coroutine_goes_on_where_it_waits() -> None:
    first, second, done = asyncio.Event(), asyncio.Event(), []

    async def work() -> None:
        await first.wait()
        done.append(1)
        await second.wait()
        done.append(2)

    rest = run_now(work())
    assert rest is not None
    waiting = asyncio.ensure_future(_wait(rest))
    await asyncio.sleep(0)
    assert done == []
    first.set()
    second.set()
    await waiting

    assert done == [1, 2]


async def test_what_is_awaited_may_come_before_the_rest_is() -> None:
    event = asyncio.Event()

    async def work() -> None:
        await event.wait()

    rest = run_now(work())
    assert rest is not None
    event.set()

    async with asyncio.timeout(5):
        await rest


async def test_coroutine_may_give_way_to_the_loop() -> None:
    async def work() -> None:
        await asyncio.sleep(0)

    rest = run_now(work())
    assert rest is not None

    async with asyncio.timeout(5):
        await rest


async def test_error_after_waiting_is_raised_by_the_rest() -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise ValueError("later")

    rest = run_now(work())
    assert rest is not None

    with pytest.raises(ValueError, match="later"):
        await rest


@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_cancelled_rest_cancels_the_coroutine(turns: int) -> None:
    event, ended = asyncio.Event(), []

    async def work() -> None:
        try:
            await event.wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    rest = run_now(work())
    assert rest is not None
    waiting = asyncio.ensure_future(_wait(rest))
    await asyncio.sleep(0)
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == ["cancelled"]


async def test_rest_that_nobody_awaits_can_be_closed() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    rest = run_now(work())
    assert rest is not None
    rest.close()

    assert ended == [True]


async def _wait(rest: object) -> None:
    await rest  # type: ignore[misc]
