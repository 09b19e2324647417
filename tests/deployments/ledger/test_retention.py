import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from deployments.ledger.retention import UsageRetention
from deployments.ledger.store.errors import StoreError
from tests.helpers.ledger_cluster import until

DAY_S = 86_400


class FakeUsage:
    """Groups of old records, and a database that can fail."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        """Sizes of the groups that are still to be rolled up."""
        self.before_days: list[int] = []
        self.error: Exception | None = None
        self.failures = 0
        self.is_prepared = False
        self.now_s = 100.5 * DAY_S

    async def prepare(self) -> None:
        self.is_prepared = True

    async def roll_up(self, before_day: int) -> int:
        assert self.is_prepared
        if self.error is not None:
            self.failures += 1
            raise self.error
        self.before_days.append(before_day)
        return self.groups.pop() if self.groups else 0


@pytest.fixture
def usage() -> FakeUsage:
    return FakeUsage()


@pytest.fixture
async def task(usage: FakeUsage) -> AsyncIterator["asyncio.Task[None]"]:
    """A retention of 90 days that runs; it turns every few milliseconds."""
    retention = UsageRetention(
        usage.prepare, usage.roll_up, 90, interval_s=0.002, pause_s=0, clock=lambda: usage.now_s
    )
    task = asyncio.create_task(retention.run())
    yield task
    task.cancel()
    await asyncio.wait([task])


async def test_today_and_the_days_that_are_kept_are_left_alone(
    usage: FakeUsage, task: "asyncio.Task[None]"
):
    await until(lambda: usage.before_days)
    usage.now_s += DAY_S
    await until(lambda: usage.before_days[-1] != 10)

    assert set(usage.before_days) == {10, 11}


async def test_a_turn_goes_on_until_nothing_is_left(usage: FakeUsage, caplog):
    caplog.set_level(logging.INFO)
    usage.groups = [5, 1000, 1000]
    retention = UsageRetention(usage.prepare, usage.roll_up, 90, pause_s=0)
    task = asyncio.create_task(retention.run())
    await until(lambda: "rolled up" in caplog.text)
    task.cancel()

    assert len(usage.before_days) == 4
    assert caplog.messages == ["2005 old usage records were rolled up by day"]


@pytest.mark.parametrize("error", [StoreError("the database is away"), LookupError("a mistake")])
async def test_an_error_is_logged_and_the_next_turn_tries_again(
    usage: FakeUsage, task: "asyncio.Task[None]", error: Exception, caplog
):
    usage.error = error
    await until(lambda: usage.failures >= 2)
    usage.groups, usage.error = [7], None
    await until(lambda: not usage.groups)

    assert not task.done()
    assert "cannot be rolled up; trying again later" in caplog.text
    assert str(error) in caplog.text


async def test_a_turn_without_old_records_logs_nothing(
    usage: FakeUsage, task: "asyncio.Task[None]", caplog
):
    caplog.set_level(logging.INFO)
    await until(lambda: len(usage.before_days) > 2)

    assert caplog.messages == []
