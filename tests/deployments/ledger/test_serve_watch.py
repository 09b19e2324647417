"""The watch with a clock and pauses of the test's own: no time passes here."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deployments.discovery import unpack_details
from deployments.ledger.serve_watch import ServeWatch

APPLICATION = {"status": "RUNNING", "deployed_app_config": {}, "deployments": {}}


class FakeController:
    """What Serve runs, or an error while it restarts."""

    def __init__(self) -> None:
        self.applications: dict[str, Any] = {"m": APPLICATION}
        self.is_down = False
        self.takes_s = 0.0
        self.now_s = 100.0

    async def fetch_details(self) -> Mapping[str, Any]:
        self.now_s += self.takes_s
        if self.is_down:
            raise OSError("the controller restarts")
        return {"applications": self.applications}


class Watching:
    """A watch that looks whenever the test says so."""

    def __init__(self, controller: FakeController) -> None:
        self.published: list[bytes] = []
        self.pauses_s: list[float] = []
        self._paused, self._go_on = asyncio.Semaphore(0), asyncio.Semaphore(0)
        self.watch = ServeWatch(
            controller.fetch_details,
            self.published.append,
            interval_s=2,
            clock=lambda: controller.now_s,
            pause=self._pause,
        )

    async def _pause(self, seconds: float) -> None:
        self.pauses_s.append(seconds)
        self._paused.release()
        await self._go_on.acquire()

    async def look(self) -> None:
        """Return after one more look."""
        await asyncio.wait_for(self._paused.acquire(), 5)
        self._go_on.release()

    @property
    def seen(self) -> list[list[str]]:
        """Names of the applications of each look."""
        return [list(unpack_details(packed)["applications"]) for packed in self.published]


@asynccontextmanager
async def watching(controller: FakeController) -> AsyncIterator[Watching]:
    setup = Watching(controller)
    task = asyncio.create_task(setup.watch.run())
    try:
        yield setup
    finally:
        task.cancel()


async def test_every_look_is_published() -> None:
    controller = FakeController()
    async with watching(controller) as setup:
        await setup.look()
        controller.applications = {"m": APPLICATION, "n": APPLICATION}
        await setup.look()

    assert setup.seen == [["m"], ["m", "n"]]


async def test_failed_look_is_logged_and_repeated(caplog: pytest.LogCaptureFixture) -> None:
    controller = FakeController()
    controller.is_down = True
    async with watching(controller) as setup:
        await setup.look()
        with pytest.raises(LookupError):
            await setup.watch.latest()
        controller.is_down = False
        await setup.look()

        assert list((await setup.watch.latest())["applications"]) == ["m"]
    assert setup.seen == [["m"]]
    assert "trying again" in caplog.text


@pytest.mark.parametrize(("takes_s", "pause_s"), [(0.02, 2), (0.3, 3)])
async def test_looks_take_a_tenth_of_the_time_at_most(takes_s: float, pause_s: float) -> None:
    controller = FakeController()
    controller.takes_s = takes_s
    async with watching(controller) as setup:
        await setup.look()

    assert setup.pauses_s == [pytest.approx(pause_s)]
