"""A look at what Serve runs, and at what the loaded models have said about themselves.

A model's capabilities, such as its context length or its sizes of images, are known only where it
is loaded. Its replicas write them to the cluster's store before they serve, and a look reads those
of all models at once, instead of a call to each model.
"""

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from operator import itemgetter
from typing import Any

import msgspec
from pydantic import ValidationError

from deployments.config.base import ModelArgs
from deployments.config.kinds import ARGUMENTS
from deployments.discovery import KINDS
from deployments.transport.cluster_store import ClusterStore, ClusterStoreError

logger = logging.getLogger(__name__)

_KEY_BYTES = 16

Details = Mapping[str, Any]
"""As `deployments.discovery.fetch_details` returns them."""


def to_key(args: ModelArgs) -> str:
    """Return where the capabilities of models with these arguments are in the store.

    So what another version of a model writes, which may then fail or be stopped, never replaces
    what the version that serves has written.
    """
    text = json.dumps(_order(args.model_dump()), default=str)
    digest = hashlib.sha256(f"{type(args).__name__} {text}".encode())
    return f"capabilities/{digest.hexdigest()[: 2 * _KEY_BYTES]}"


def _order(value: Any) -> Any:
    """Give sets, and mappings with any names, the same order in each process."""
    match value:
        case Mapping():
            return sorted(([str(name), _order(value[name])] for name in value), key=itemgetter(0))
        case AbstractSet():
            return sorted(map(str, value))
        case list() | tuple():
            return [_order(each) for each in value]
        case _:
            return value


def pack_capabilities(capabilities: Mapping[str, Any]) -> bytes:
    """Pack what a loaded model says about itself; what is no plain value becomes text."""
    return msgspec.msgpack.encode(capabilities, enc_hook=str)


class ServeLook:
    """Looks when it is asked to, and remembers the capabilities while the store is away."""

    def __init__(
        self, fetch_details: Callable[[], Awaitable[Details]], store: ClusterStore
    ) -> None:
        """Look by `fetch_details`, which may raise, and read capabilities from `store`."""
        self._fetch_details = fetch_details
        self._store = store
        self._keys: dict[str, tuple[Any, str | None]] = {}
        """Application → its `args`, and their key."""
        self._known: dict[str, Mapping[str, Any]] = {}

    async def fetch(self) -> Details:
        """Return Serve's details, in which each model has its `capabilities` if it was loaded.

        Raises:
            Exception: what `fetch_details` raises.
        """
        details = await self._fetch_details()
        self._keys = {
            name: self._find_key(name, application.get("deployed_app_config") or {})
            for name, application in details["applications"].items()
        }
        await self._read({key for _, key in self._keys.values() if key is not None})
        applications = {
            name: {**application, "capabilities": self._known.get(self._keys[name][1] or "", {})}
            for name, application in details["applications"].items()
        }
        return {**details, "applications": applications}

    def _find_key(self, name: str, config: Mapping[str, Any]) -> tuple[Any, str | None]:
        kind, args = KINDS.get(config.get("import_path", "")), config.get("args")
        known = self._keys.get(name)
        if known is not None and known[0] == (kind, args):
            return known
        try:
            key = to_key(ARGUMENTS[kind].model_validate(args)) if kind else None
        except ValidationError:  # such a model cannot have been loaded
            key = None
        return (kind, args), key

    async def _read(self, keys: AbstractSet[str]) -> None:
        known = {key: value for key, value in self._known.items() if key in keys}
        try:
            found = await self._store.get_many(sorted(keys)) if keys else {}
            known |= {key: msgspec.msgpack.decode(packed) for key, packed in found.items()}
        except ClusterStoreError as error:
            logger.warning("the models' capabilities stay as they were: %s", error)
        self._known = known
