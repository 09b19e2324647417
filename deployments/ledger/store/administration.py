"""All of `api.ports.administration.Administration`, on one database."""

from collections.abc import Mapping, Sequence
from typing import Any

from api.ports.administration import NewSecret, UsageQuery, UsageRow
from api.ports.tenancy import Key
from deployments.ledger.store.keys import KeyStore
from deployments.ledger.store.usage import UsageStore


class StoredAdministration:
    """Keys and usage. Beside what the port says, all methods may raise `StoreError`."""

    def __init__(self, keys: KeyStore, usage: UsageStore) -> None:
        """Put the two stores behind one face."""
        self._keys = keys
        self._usage = usage

    async def create_key(self, fields: Mapping[str, Any]) -> NewSecret:
        """See the port, as for all methods."""
        return await self._keys.create_key(fields)

    async def list_keys(self) -> Sequence[Key]:
        """List them, oldest first."""
        return await self._keys.list_keys()

    async def get_key(self, id_or_name: str) -> Key:
        """Get one key."""
        return await self._keys.get_key(id_or_name)

    async def change_key(self, id_or_name: str, changes: Mapping[str, Any]) -> Key:
        """Change one."""
        return await self._keys.change_key(id_or_name, changes)

    async def rotate_key(self, id_or_name: str, grace_s: float) -> NewSecret:
        """Give one a new secret."""
        return await self._keys.rotate_key(id_or_name, grace_s)

    async def delete_key(self, id_or_name: str) -> None:
        """Forget one."""
        await self._keys.delete_key(id_or_name)

    async def report_usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Sum up usage."""
        return await self._usage.report_usage(query)
