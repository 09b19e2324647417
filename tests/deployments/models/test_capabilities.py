"""How a replica writes what its engine can do; the pauses are the test's own."""

import asyncio
from typing import Any

import msgspec
import pytest

from deployments.config.llm import LlmArgs
from deployments.models.capabilities import PublishedCapabilities
from deployments.serve_look import to_key
from tests.helpers.cluster_store import DictStore

ARGS = LlmArgs(id="m", source="fake:")


class FakeEngine:
    """An engine whose capabilities change."""

    def __init__(self) -> None:
        self.capabilities: dict[str, Any] = {"max_tokens": 1}


class Setup:
    """A replica's capabilities, the store, and pauses that the test ends."""

    def __init__(self) -> None:
        self.store, self.engine = DictStore(), FakeEngine()
        self.pauses_s: list[float] = []
        self.paused, self.go_on = asyncio.Event(), asyncio.Event()
        self.published = PublishedCapabilities(ARGS, self.engine, self.store, pause=self._pause)

    async def _pause(self, seconds: float) -> None:
        self.pauses_s.append(seconds)
        if seconds:
            self.paused.set()
            await self.go_on.wait()
            self.go_on.clear()

    @property
    def written(self) -> Any:
        return msgspec.msgpack.decode(self.store.values[to_key(ARGS)])

    async def settle(self) -> None:
        """Wait until nothing is left to write."""
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(tasks, timeout=5)


async def test_capabilities_are_written_once() -> None:
    setup = Setup()

    await setup.published.publish()
    setup.published.update()
    await setup.settle()

    assert setup.written == {"max_tokens": 1}
    assert setup.store.count("put") == 1


async def test_changed_capabilities_are_written_again() -> None:
    setup = Setup()
    await setup.published.publish()
    setup.engine.capabilities = {"max_tokens": 2}

    setup.published.update()
    await setup.settle()

    assert setup.written == {"max_tokens": 2}
    assert setup.store.count("put") == 2


async def test_failed_write_stops_nothing_and_is_repeated(caplog: pytest.LogCaptureFixture) -> None:
    setup = Setup()
    setup.store.is_down = True
    await setup.published.publish()
    await asyncio.wait_for(setup.paused.wait(), 5)
    setup.store.is_down = False
    setup.engine.capabilities = {"max_tokens": 2}
    setup.published.update()

    setup.go_on.set()
    await setup.settle()

    assert setup.written == {"max_tokens": 2}
    assert (setup.store.count("put"), setup.pauses_s) == (2, [5])
    assert "model 'm': its capabilities are not known yet" in caplog.text


async def test_nothing_is_written_after_the_end() -> None:
    setup = Setup()
    setup.store.is_down = True
    await setup.published.publish()

    setup.published.shut_down()
    await setup.settle()

    assert setup.store.count("put") == 1
