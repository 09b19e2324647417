"""The cluster's store in a dict."""

from collections.abc import Mapping, Sequence

from deployments.transport.cluster_store import ClusterStoreError


class DictStore:
    """A `ClusterStore` that counts its calls, and can be down."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.calls: list[tuple[str, str]] = []
        """Name of the method, and the key; of many keys, how many."""
        self.is_down = False

    async def put(self, key: str, value: bytes) -> None:
        self._count("put", key)
        self.values[key] = value

    async def get(self, key: str) -> bytes | None:
        self._count("get", key)
        return self.values.get(key)

    async def get_many(self, keys: Sequence[str]) -> Mapping[str, bytes]:
        self._count("get_many", str(len(keys)))
        return {key: self.values[key] for key in keys if key in self.values}

    def count(self, method: str) -> int:
        """How often a method was called."""
        return [each for each, _ in self.calls].count(method)

    def _count(self, method: str, key: str) -> None:
        self.calls.append((method, key))
        if self.is_down:
            raise ClusterStoreError("down")
