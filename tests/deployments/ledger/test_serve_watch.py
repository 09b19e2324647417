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
        self.looks = 0
        self.looked = asyncio.Event()

    async def fetch_details(self) -> Mapping[str, Any]:
        self.looks += 1
        self.looked.set()
        if self.is_down:
            raise OSError("the controller restarts")
        return {"applications": self.applications}

    async def wait_for_look(self) -> None:
        """Return when the present state has been looked at."""
        for _ in range(2):
            self.looked.clear()
            await asyncio.wait_for(self.looked.wait(), 5)


@asynccontextmanager
async def watching(
    controller: FakeController, interval_s: float = 0.001
) -> AsyncIterator[tuple[ServeWatch, list[bytes]]]:
    published: list[bytes] = []
    watch = ServeWatch(controller.fetch_details, published.append, interval_s=interval_s)
    task = asyncio.create_task(watch.run())
    try:
        yield watch, published
    finally:
        task.cancel()


async def test_every_look_is_published() -> None:
    controller = FakeController()
    async with watching(controller) as (_, published):
        await controller.wait_for_look()
        controller.applications = {"m": APPLICATION, "n": APPLICATION}
        await controller.wait_for_look()

    assert list(unpack_details(published[0])["applications"]) == ["m"]
    assert list(unpack_details(published[-1])["applications"]) == ["m", "n"]


async def test_failed_look_is_logged_and_repeated(caplog: pytest.LogCaptureFixture) -> None:
    controller = FakeController()
    controller.is_down = True
    async with watching(controller) as (watch, published):
        await controller.wait_for_look()
        with pytest.raises(LookupError):
            await watch.latest()
        failures = len(published)
        controller.is_down = False
        await controller.wait_for_look()

        assert list((await watch.latest())["applications"]) == ["m"]
    assert failures == 0
    assert "trying again" in caplog.text


async def test_slow_looks_are_rare() -> None:
    """A look of 20 ms is followed by a pause of 200 ms."""

    class SlowController(FakeController):
        async def fetch_details(self) -> Mapping[str, Any]:
            await asyncio.sleep(0.02)
            return await super().fetch_details()

    controller = SlowController()
    async with watching(controller):
        await asyncio.sleep(0.15)

    assert controller.looks == 1
