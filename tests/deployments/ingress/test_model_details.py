import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api.errors import EngineFailed
from deployments.discovery import DiscoveredModel
from deployments.ingress.model_details import ModelDetails

MODEL = DiscoveredModel("a", "a", "embedding", "ready", None, 1, {})


class Asked:
    """Answers with its count of questions, or fails."""

    def __init__(self, fails: int = 0) -> None:
        self.count = 0
        self._fails = fails

    async def __call__(self, model: DiscoveredModel) -> Mapping[str, Any]:
        self.count += 1
        if self.count <= self._fails:
            raise EngineFailed("no")
        return {"dimensions": self.count}


async def look(details: ModelDetails, model: DiscoveredModel = MODEL) -> Mapping[str, Any]:
    details.find(model)
    await asyncio.sleep(0.01)
    return details.find(model)


async def test_model_is_asked_once() -> None:
    asked = Asked()
    details = ModelDetails(asked)

    first = details.find(MODEL)
    second = await look(details)
    third = await look(details)

    assert (first, second, third, asked.count) == ({}, {"dimensions": 1}, {"dimensions": 1}, 1)


async def test_model_that_is_not_ready_is_not_woken() -> None:
    asked = Asked()

    await look(ModelDetails(asked), replace(MODEL, state="idle"))
    await look(ModelDetails(asked), replace(MODEL, is_settled=False))

    assert asked.count == 0


async def test_new_deployment_is_asked_again_and_the_old_answer_stays_meanwhile() -> None:
    details = ModelDetails(Asked())
    await look(details)

    meanwhile = await look(details, replace(MODEL, deployed_at_s=2, is_settled=False))
    after = await look(details, replace(MODEL, deployed_at_s=2))

    assert (meanwhile, after) == ({"dimensions": 1}, {"dimensions": 2})


async def test_failure_is_tried_again() -> None:
    details = ModelDetails(Asked(fails=1))

    first = await look(details)
    second = await look(details)

    assert (first, second) == ({}, {"dimensions": 2})


async def test_model_that_is_gone_is_forgotten() -> None:
    details = ModelDetails(Asked())
    await look(details)

    details.keep([])

    assert details.find(replace(MODEL, state="idle")) == {}


async def test_shut_down_waits_for_no_answer() -> None:
    details = ModelDetails(Asked())
    details.find(MODEL)

    details.shut_down()

    assert await look(details, replace(MODEL, state="idle")) == {}
