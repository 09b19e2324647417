"""What a loaded model says about itself, written to where all ingress replicas will find it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from deployments.config.base import ModelArgs
from deployments.serve_look import pack_capabilities, to_key
from deployments.transport.cluster_store import ClusterStore, ClusterStoreError

logger = logging.getLogger(__name__)

_RETRY_S = 5.0


class Engine(Protocol):
    """What is needed of an engine."""

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """Members of the model card in `/v1/models`."""


class PublishedCapabilities:
    """The capabilities of one replica's engine, as they are in the cluster's store."""

    def __init__(
        self,
        args: ModelArgs,
        engine: Engine,
        store: ClusterStore,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Write nothing yet.

        Args:
            args: what the replica was deployed with.
            engine: the loaded engine.
            store: where its capabilities go.
            pause: waits for as many seconds.
        """
        self._name = args.id
        self._key = to_key(args)
        self._engine = engine
        self._store = store
        self._pause = pause
        self._written: Mapping[str, Any] | None = None
        self._writing: asyncio.Task[None] | None = None

    async def publish(self) -> None:
        """Write the capabilities; if that fails, go on trying in the background."""
        await self._write()
        self._write_changes(_RETRY_S)

    def update(self) -> None:
        """Write the capabilities in the background, if they are others than before."""
        self._write_changes(0)

    def shut_down(self) -> None:
        """Stop trying."""
        if self._writing is not None:
            self._writing.cancel()

    def _write_changes(self, delay_s: float) -> None:
        is_writing = self._writing is not None and not self._writing.done()
        if self._has_changes and not is_writing:
            self._writing = asyncio.create_task(self._keep_writing(delay_s))

    async def _keep_writing(self, delay_s: float) -> None:
        while self._has_changes:
            await self._pause(delay_s)
            await self._write()
            delay_s = _RETRY_S

    @property
    def _has_changes(self) -> bool:
        return self._written != self._engine.capabilities

    async def _write(self) -> None:
        capabilities = self._engine.capabilities
        try:
            await self._store.put(self._key, pack_capabilities(capabilities))
            self._written = dict(capabilities)
        except ClusterStoreError as error:
            logger.warning("model '%s': its capabilities are not known yet: %s", self._name, error)
