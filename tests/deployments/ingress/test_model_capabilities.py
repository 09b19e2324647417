import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api.errors import EngineError
from deployments.discovery import DiscoveredModel
from deployments.ingress.model_capabilities import ModelCapabilities

MODEL = DiscoveredModel("a", "a", "embedding", "ready", None, 1, {})


class Asked:
    """Answers with its count of questions, or fails."""

    def __init__(self, fails: int = 0) -> None:
        self.count = 0
        self._fails = fails

    async def __call__(self, model: DiscoveredModel) -> Mapping[str, Any]:
        self.count += 1
        if self.count <= self._fails:
            raise EngineError("no")
        return {"dimensions": self.count}


async def look(
    capabilities: ModelCapabilities, model: DiscoveredModel = MODEL
) -> Mapping[str, Any]:
    capabilities.get(model)
    await asyncio.sleep(0.01)
    return capabilities.get(model)


async def test_model_is_asked_once() -> None:
    asked = Asked()
    capabilities = ModelCapabilities(asked)

    first = capabilities.get(MODEL)
    second = await look(capabilities)
    third = await look(capabilities)

    assert (first, second, third, asked.count) == ({}, {"dimensions": 1}, {"dimensions": 1}, 1)


async def test_model_that_is_not_ready_is_not_woken() -> None:
    asked = Asked()

    await look(ModelCapabilities(asked), replace(MODEL, state="idle"))
    await look(ModelCapabilities(asked), replace(MODEL, is_settled=False))

    assert asked.count == 0


async def test_new_deployment_is_asked_again_and_the_old_answer_stays_meanwhile() -> None:
    capabilities = ModelCapabilities(Asked())
    await look(capabilities)

    meanwhile = await look(capabilities, replace(MODEL, deployed_at_s=2, is_settled=False))
    after = await look(capabilities, replace(MODEL, deployed_at_s=2))

    assert (meanwhile, after) == ({"dimensions": 1}, {"dimensions": 2})


async def test_failure_is_tried_again() -> None:
    capabilities = ModelCapabilities(Asked(fails=1))

    first = await look(capabilities)
    second = await look(capabilities)

    assert (first, second) == ({}, {"dimensions": 2})


async def test_model_that_is_gone_is_forgotten() -> None:
    capabilities = ModelCapabilities(Asked())
    await look(capabilities)

    capabilities.retain([])

    assert capabilities.get(replace(MODEL, state="idle")) == {}


async def test_shut_down_waits_for_no_answer() -> None:
    capabilities = ModelCapabilities(Asked())
    capabilities.get(MODEL)

    capabilities.shut_down()

    assert await look(capabilities, replace(MODEL, state="idle")) == {}
