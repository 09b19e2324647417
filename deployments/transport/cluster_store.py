"""Small values that all processes of the cluster share: the key-value store of Ray's GCS.

Serve keeps its own state there too. There is no public way to it (ray.experimental.internal_kv,
2.60). A call takes 0.3 ms of CPU here, and is awaited. Values stay as long as the cluster, so
there may be only a few keys.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

_NAMESPACE = b"triptych"
_TIMEOUT_S = 1.0


class ClusterStoreError(Exception):
    """The store cannot be used at the moment."""


class ClusterStore(Protocol):
    """What the cluster's processes know in common. Every method may raise ClusterStoreError."""

    async def put(self, key: str, value: bytes) -> None:
        """Store a value, in place of the one before."""

    async def get(self, key: str) -> bytes | None:
        """Return a value; None if there is none."""

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        """Return the values that there are, in one call."""


def find_gcs_client() -> Any:
    """Return the client that Ray has in this process; None outside of a cluster."""
    # Imported here for its cost: users of the Protocol alone need no Ray.
    from ray.experimental.internal_kv import internal_kv_get_gcs_client

    return internal_kv_get_gcs_client()


class GcsStore:
    """The `ClusterStore` of a process that Ray runs."""

    def __init__(
        self,
        find_client: Callable[[], Any] = find_gcs_client,
        *,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        """Use the client that `find_client` finds; a call fails after `timeout_s`."""
        self._find_client = find_client
        self._timeout_s = timeout_s

    async def put(self, key: str, value: bytes) -> None:
        """Store a value, in place of the one before."""
        await self._call("put", key.encode(), value, True)

    async def get(self, key: str) -> bytes | None:
        """Return a value; None if there is none."""
        value: bytes | None = await self._call("get", key.encode())
        return value

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        """Return the values that there are, in one call."""
        found = await self._call("multi_get", [key.encode() for key in keys])
        return {key.decode(): value for key, value in found.items()}

    async def _call(self, name: str, *arguments: Any) -> Any:
        client = self._find_client()
        if client is None:
            raise ClusterStoreError("Ray has not started in this process")
        try:
            method = getattr(client, f"async_internal_kv_{name}")
            answer = method(*arguments, namespace=_NAMESPACE, timeout=self._timeout_s)
            # Ray sets the future whatever happens, and complains if it has been cancelled.
            answer.add_done_callback(_mark_as_retrieved)
            await asyncio.wait([answer])
            return answer.result()
        except Exception as error:  # nothing of a private interface is certain
            raise ClusterStoreError(f"Ray's GCS: {error}") from error


def _mark_as_retrieved(answer: "asyncio.Future[Any]") -> None:
    if not answer.cancelled():
        answer.exception()
