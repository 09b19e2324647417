"""The ledger as the HTTP API's `Administration`: one handle call per method."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from api.errors import EngineError, RouteNotFoundError, UnavailableError
from api.ports.administration import NewSecret, UsageQuery, UsageRow
from api.ports.tenancy import Key
from deployments.ingress.replica_calls import call

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


class LedgerAdministration:
    """Manages keys and reports usage by calling the ledger."""

    def __init__(self, get_handle: "Callable[[], DeploymentHandle[Any] | None]") -> None:
        """Call the handle that `get_handle` returns; None means that there is no ledger."""
        self._get_handle = get_handle

    async def create_key(self, fields: Mapping[str, Any]) -> NewSecret:
        """Create a key."""
        made: NewSecret = await self._call("create_key", dict(fields))
        return made

    async def list_keys(self) -> Sequence[Key]:
        """List all keys."""
        keys: Sequence[Key] = await self._call("list_keys")
        return keys

    async def get_key(self, id_or_name: str) -> Key:
        """Get one key."""
        key: Key = await self._call("get_key", id_or_name)
        return key

    async def change_key(self, id_or_name: str, changes: Mapping[str, Any]) -> Key:
        """Change some fields of a key."""
        key: Key = await self._call("change_key", id_or_name, dict(changes))
        return key

    async def rotate_key(self, id_or_name: str, grace_s: float) -> NewSecret:
        """Give a key a new secret; the old one stays valid for `grace_s` seconds."""
        made: NewSecret = await self._call("rotate_key", id_or_name, grace_s)
        return made

    async def delete_key(self, id_or_name: str) -> None:
        """Delete a key."""
        await self._call("delete_key", id_or_name)

    async def report_usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Sum up the recorded usage."""
        rows: Sequence[UsageRow] = await self._call("report_usage", query)
        return rows

    async def _call(self, method: str, *args: Any) -> Any:
        handle = self._get_handle()
        if handle is None:
            raise RouteNotFoundError("This service keeps neither keys nor usage: it has no ledger.")
        try:
            return await call(handle.administer, method, *args)
        except (EngineError, UnavailableError) as error:  # their messages speak of a model
            raise UnavailableError(
                "Keys and usage cannot be reached at the moment; try again."
            ) from error
