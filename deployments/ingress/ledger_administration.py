"""The ledger's handle as the HTTP face wants it: `Administration`."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from api.errors import EngineError, RouteNotFoundError, UnavailableError
from api.ports.administration import NewSecret, UsageQuery, UsageRow
from api.ports.tenancy import Key
from deployments.ingress.handles import call

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle


class LedgerAdministration:
    """Keys and usage as the ledger keeps them."""

    def __init__(self, find: "Callable[[], DeploymentHandle[Any] | None]") -> None:
        """Call the handle that `find` gives; None if the configuration has no ledger."""
        self._find = find

    async def create_key(self, fields: Mapping[str, Any]) -> NewSecret:
        """Make a key."""
        made: NewSecret = await self._call("create_key", dict(fields))
        return made

    async def list_keys(self) -> Sequence[Key]:
        """All keys."""
        keys: Sequence[Key] = await self._call("list_keys")
        return keys

    async def get_key(self, id_or_name: str) -> Key:
        """One key."""
        key: Key = await self._call("get_key", id_or_name)
        return key

    async def change_key(self, id_or_name: str, changes: Mapping[str, Any]) -> Key:
        """Replace some fields."""
        key: Key = await self._call("change_key", id_or_name, dict(changes))
        return key

    async def rotate_key(self, id_or_name: str, grace_s: float) -> NewSecret:
        """Give it a new secret."""
        made: NewSecret = await self._call("rotate_key", id_or_name, grace_s)
        return made

    async def delete_key(self, id_or_name: str) -> None:
        """Forget it."""
        await self._call("delete_key", id_or_name)

    async def report_usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Sums of what is recorded."""
        rows: Sequence[UsageRow] = await self._call("report_usage", query)
        return rows

    async def _call(self, method: str, *args: Any) -> Any:
        handle = self._find()
        if handle is None:
            raise RouteNotFoundError("This service keeps neither keys nor usage: it has no ledger.")
        try:
            return await call(handle.administer, method, *args)
        except (EngineError, UnavailableError) as error:  # in the words for models, and it is none
            raise UnavailableError(
                "Keys and usage cannot be reached at the moment; try again."
            ) from error
