"""Requests while the service is being stopped."""

import asyncio

import pytest

from api.errors import ServiceStoppingError
from api.http.draining import Draining
from api.http.lifetime import deadline


async def test_requests_under_way_are_counted() -> None:
    draining = Draining()

    with draining.admit(), draining.admit():
        assert len(draining) == 2
    assert len(draining) == 0


async def test_failed_request_is_not_counted_any_more() -> None:
    draining = Draining()

    with pytest.raises(KeyError), draining.admit():
        raise KeyError

    assert len(draining) == 0


async def test_new_request_is_refused_and_one_under_way_goes_on() -> None:
    draining = Draining()
    async with deadline(60, draining):
        draining.begin()

        with pytest.raises(ServiceStoppingError) as refused, draining.admit():
            pytest.fail("it was admitted")
        await asyncio.sleep(0)

    assert refused.value.retry_after_s == 5
    assert len(draining) == 0


async def test_request_fails_when_the_time_is_over() -> None:
    draining = Draining()

    request = asyncio.create_task(call_model(draining))
    await asyncio.sleep(0)
    draining.end()
    draining.end()

    with pytest.raises(ServiceStoppingError):
        await request


async def call_model(draining: Draining) -> None:
    async with asyncio.timeout(5), deadline(60, draining):
        await asyncio.Event().wait()


async def test_ending_again_while_a_request_is_slow_to_end_is_harmless() -> None:
    draining, is_ending, may_end = Draining(), asyncio.Event(), asyncio.Event()

    async def end_slowly() -> None:
        async with deadline(60, draining):
            try:
                await asyncio.Event().wait()
            finally:
                is_ending.set()
                await may_end.wait()

    request = asyncio.create_task(end_slowly())
    await asyncio.sleep(0)
    draining.end()
    await is_ending.wait()
    draining.end()
    may_end.set()

    with pytest.raises(ServiceStoppingError):
        await request


async def test_request_that_calls_its_model_after_the_end_fails() -> None:
    draining = Draining()
    draining.end()

    with pytest.raises(ServiceStoppingError):
        await call_model(draining)


async def test_request_that_has_ended_is_left_alone() -> None:
    draining = Draining()
    async with deadline(60, draining):
        pass

    draining.end()
    await asyncio.sleep(0)
