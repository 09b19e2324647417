"""LoRA adapters: which ones a model has, and loading them into its engine on first use.

A name from a client is a lookup key and never a path. Valid names are those listed in the
configuration and the folders in `adapters_dir`.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from api.errors import EngineError, ModelNotFoundError
from deployments.config.adapters import list_adapters
from deployments.config.llm import LlmArgs
from deployments.engines.sources import SourceError, resolve_source

logger = logging.getLogger(__name__)

Load = Callable[[str, int, str], Awaitable[Any]]
"""Name, number and folder → the adapter as the engine needs it."""


class Adapters:
    """The adapters of one replica, each loaded on first use."""

    def __init__(self, args: LlmArgs, load: Load) -> None:
        """Load the adapters of `args`, which may be replaced, by `load`, the engine's loader."""
        self.args = args
        self._load = load
        self._numbers = itertools.count(1)
        self._loaded: dict[tuple[str, str, float], Any] = {}
        self._loading = asyncio.Lock()

    async def get(self, name: str) -> Any:
        """Return an adapter as the engine needs it; changed files are loaded as a new adapter.

        Raises:
            ModelNotFoundError: the model has no adapter of that name.
            EngineError: the adapter cannot be loaded; the log says why.
        """
        # In a thread: the folder may be on a network file system.
        key = await asyncio.to_thread(self._find, name)
        async with self._loading:  # requests that come together load their adapter once
            if key not in self._loaded:
                # vLLM caches adapters by number: two must never share one.
                self._loaded[key] = await self._load(name, next(self._numbers), key[1])
        return self._loaded[key]

    def _find(self, name: str) -> tuple[str, str, float]:
        """Return the name, the folder and the time at which its files were last changed."""
        source = list_adapters(self.args).get(name)
        if source is None:
            raise ModelNotFoundError("This model has no such adapter.", param="model")
        try:
            folder = resolve_source(f"{self.args.id}:{name}", source, self.args.trust)
        except SourceError as error:
            logger.error("%s", error)
            raise EngineError("The adapter could not be loaded.") from error
        return name, str(folder), _changed_at_s(folder)


def _changed_at_s(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.iterdir()), default=0.0)
