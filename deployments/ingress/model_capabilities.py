"""What models tell of themselves for their cards: limits that only the loaded model knows."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from api.errors import ApiError
from deployments.discovery import DiscoveredModel

logger = logging.getLogger(__name__)

_Key = tuple[str, int]


class ModelCapabilities:
    """Asks each deployed model once, in the background, and remembers the answer."""

    def __init__(self, ask: Callable[[DiscoveredModel], Awaitable[Mapping[str, Any]]]) -> None:
        """Ask by `ask`."""
        self._ask = ask
        self._known: dict[str, tuple[_Key, Mapping[str, Any]]] = {}
        self._asking: dict[_Key, asyncio.Task[None]] = {}

    def get(self, model: DiscoveredModel) -> Mapping[str, Any]:
        """What is known of it: nothing before its first replica has answered."""
        key, capabilities = self._known.get(model.application, (None, {}))
        is_askable = model.is_settled and model.state == "ready"
        if is_askable and key != _to_key(model) and _to_key(model) not in self._asking:
            self._asking[_to_key(model)] = asyncio.create_task(self._fetch(model))
        return capabilities

    def retain(self, models: Iterable[DiscoveredModel]) -> None:
        """Forget all others."""
        names = {model.application for model in models}
        self._known = {name: known for name, known in self._known.items() if name in names}

    def shut_down(self) -> None:
        """Wait for no answer."""
        for task in self._asking.values():
            task.cancel()

    async def _fetch(self, model: DiscoveredModel) -> None:
        key = _to_key(model)
        try:
            self._known[model.application] = key, await self._ask(model)
        except ApiError:  # it is asked again with the next look
            logger.warning("the model %s does not tell its limits", model.id)
        finally:
            del self._asking[key]


def _to_key(model: DiscoveredModel) -> _Key:
    return model.application, model.deployed_at_s
