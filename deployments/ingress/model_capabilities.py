"""Capabilities that only a loaded model knows, such as its context length or image sizes."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from api.errors import ApiError
from deployments.discovery import DiscoveredModel

logger = logging.getLogger(__name__)

_Version = tuple[str, int]
"""Application, and the time of its deployment."""

Fetch = Callable[[DiscoveredModel], Awaitable[Mapping[str, Any]]]


class ModelCapabilities:
    """Fetches the capabilities of each deployed model once, in the background."""

    def __init__(self, fetch: Fetch) -> None:
        """Fetch by `fetch`, which may raise ApiError and is then called again."""
        self._fetch_from = fetch
        self._known: dict[str, tuple[_Version, Mapping[str, Any]]] = {}
        self._fetching: dict[_Version, asyncio.Task[None]] = {}

    def get(self, model: DiscoveredModel) -> Mapping[str, Any]:
        """Return what is known of a model: nothing until it has answered for the first time."""
        version = _to_version(model)
        known_version, capabilities = self._known.get(model.application, (None, {}))
        is_ready = model.is_settled and model.state == "ready"
        if is_ready and version != known_version and version not in self._fetching:
            self._fetching[version] = asyncio.create_task(self._fetch(model))
        return capabilities

    def retain(self, models: Iterable[DiscoveredModel]) -> None:
        """Forget all other models."""
        names = {model.application for model in models}
        self._known = {name: known for name, known in self._known.items() if name in names}

    def shut_down(self) -> None:
        """Cancel all open calls."""
        for task in self._fetching.values():
            task.cancel()

    async def _fetch(self, model: DiscoveredModel) -> None:
        version = _to_version(model)
        try:
            self._known[model.application] = version, await self._fetch_from(model)
        except ApiError:  # the next `get` tries again
            logger.warning("the capabilities of model '%s' could not be fetched", model.id)
        finally:
            del self._fetching[version]


def _to_version(model: DiscoveredModel) -> _Version:
    return model.application, model.deployed_at_s
