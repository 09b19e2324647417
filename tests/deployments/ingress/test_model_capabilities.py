import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api.errors import EngineError
from deployments.discovery import DiscoveredModel
from deployments.ingress.model_capabilities import ModelCapabilities

MODEL = DiscoveredModel("a", "a", "embedding", "ready", None, 1, {})


class FakeModel:
    """Answers with the number of calls so far, or fails."""

    def __init__(self, fails: int = 0) -> None:
        self.count = 0
        self._fails = fails

    async def __call__(self, model: DiscoveredModel) -> Mapping[str, Any]:
        self.count += 1
        if self.count <= self._fails:
            raise EngineError("no")
        return {"dimensions": self.count}


async def get_settled(
    capabilities: ModelCapabilities, model: DiscoveredModel = MODEL
) -> Mapping[str, Any]:
    """What is known once all background calls have ended."""
    capabilities.get(model)
    if calls := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(calls)
    return capabilities.get(model)


async def test_model_is_called_once() -> None:
    model = FakeModel()
    capabilities = ModelCapabilities(model)

    first = capabilities.get(MODEL)
    second = await get_settled(capabilities)
    third = await get_settled(capabilities)

    assert (first, second, third, model.count) == ({}, {"dimensions": 1}, {"dimensions": 1}, 1)


async def test_model_that_is_not_ready_is_not_called() -> None:
    model = FakeModel()

    await get_settled(ModelCapabilities(model), replace(MODEL, state="idle"))
    await get_settled(ModelCapabilities(model), replace(MODEL, is_settled=False))

    assert model.count == 0


async def test_new_deployment_is_called_and_the_old_answer_stays_meanwhile() -> None:
    capabilities = ModelCapabilities(FakeModel())
    await get_settled(capabilities)

    meanwhile = await get_settled(capabilities, replace(MODEL, deployed_at_s=2, is_settled=False))
    after = await get_settled(capabilities, replace(MODEL, deployed_at_s=2))

    assert (meanwhile, after) == ({"dimensions": 1}, {"dimensions": 2})


async def test_failed_call_is_tried_again() -> None:
    capabilities = ModelCapabilities(FakeModel(fails=1))

    first = await get_settled(capabilities)
    second = await get_settled(capabilities)

    assert (first, second) == ({}, {"dimensions": 2})


async def test_removed_model_is_forgotten() -> None:
    capabilities = ModelCapabilities(FakeModel())
    await get_settled(capabilities)

    capabilities.retain([])

    assert capabilities.get(replace(MODEL, state="idle")) == {}


async def test_shut_down_cancels_open_calls() -> None:
    capabilities = ModelCapabilities(FakeModel())
    capabilities.get(MODEL)

    capabilities.shut_down()

    assert await get_settled(capabilities, replace(MODEL, state="idle")) == {}
