import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from deployments.discovery import pack_details
from deployments.ingress.serve_details import PushedDetails
from deployments.ingress.shared_look import SharedLook
from deployments.ledger.protocol import ServeDetails
from tests.helpers.cluster_store import DictStore


def details(name: str) -> dict[str, Any]:
    application = {"status": "RUNNING", "deployed_app_config": {}, "deployments": {}}
    return {"applications": {name: application}}


class Setup:
    """Pushed details, a clock, and a controller that counts how often it is asked."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.asked = 0
        look = SharedLook(self.ask, DictStore(), interval_s=2, clock=lambda: self.now_s)
        self.pushed = PushedDetails(look, max_age_s=6, clock=lambda: self.now_s)

    async def ask(self) -> Mapping[str, Any]:
        self.asked += 1
        return details("asked")

    async def names(self) -> list[str]:
        return list((await self.pushed.fetch())["applications"])


def packed(name: str) -> ServeDetails:
    return ServeDetails(pack_details(details(name)))


async def test_controller_is_asked_until_the_ledger_has_sent_something() -> None:
    setup = Setup()
    before = await setup.names()
    setup.pushed.update(packed("sent"))

    assert (before, await setup.names(), setup.asked) == (["asked"], ["sent"], 1)


async def test_news_that_nothing_has_changed_keeps_the_details_fresh() -> None:
    setup = Setup()
    setup.pushed.update(packed("sent"))
    for _ in range(5):
        setup.now_s += 5
        setup.pushed.update(ServeDetails(None))

    assert (await setup.names(), setup.asked) == (["sent"], 0)


async def test_controller_is_asked_when_the_ledger_is_silent() -> None:
    setup = Setup()
    setup.pushed.update(packed("sent"))
    setup.now_s += 6

    assert (await setup.names(), setup.asked) == (["asked"], 1)


async def test_no_change_without_details_is_no_news() -> None:
    """A ledger says so only after it has sent them; then the connection was another one."""
    setup = Setup()
    setup.pushed.update(ServeDetails(None))

    assert await setup.names() == ["asked"]


async def test_what_the_ledger_has_sent_is_in_use_again_when_it_is_back() -> None:
    """Its news that nothing has changed is about what it has sent."""
    setup = Setup()
    setup.pushed.update(packed("sent"))
    setup.now_s += 6
    meanwhile = await setup.names()
    setup.pushed.update(ServeDetails(None))

    assert (meanwhile, await setup.names(), setup.asked) == (["asked"], ["sent"], 1)


async def test_latest_details_are_known_without_a_look() -> None:
    setup = Setup()
    with pytest.raises(LookupError):
        await setup.pushed.latest()
    setup.pushed.update(packed("sent"))

    assert list((await setup.pushed.latest())["applications"]) == ["sent"]
    assert setup.asked == 0


@pytest.mark.parametrize("message", [None, ServeDetails(None)])
async def test_wait_ends_after_its_time_without_a_change(message: ServeDetails | None) -> None:
    setup = Setup()
    if message is not None:
        setup.pushed.update(message)

    await asyncio.wait_for(setup.pushed.wait_for_change(0.01), 5)


async def test_wait_ends_at_once_with_a_change_and_only_once() -> None:
    setup = Setup()
    waiting = asyncio.create_task(setup.pushed.wait_for_change(60))
    await asyncio.sleep(0)
    setup.pushed.update(packed("sent"))
    await asyncio.wait_for(waiting, 5)

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(setup.pushed.wait_for_change(60), 0.01)
