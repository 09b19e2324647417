"""The ledger's address, and how clients find it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deployments.discovery import LEDGER, fetch_details, find_ledger_application

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class LedgerAddress:
    """Where the ledger listens."""

    host: str
    port: int
    auth_token: bytes
    """A client's first bytes."""


async def find_ledger(
    fetch: Callable[[], Awaitable[Mapping[str, Any]]] = fetch_details,
) -> LedgerAddress | None:
    """Ask the ledger's replica for its address; None if no ledger is configured.

    Args:
        fetch: returns Serve's details. It is called again and again while there is no ledger.

    Raises:
        Exception: the ledger or Serve's controller is not up.
    """
    name = find_ledger_application(await fetch())
    if name is None:
        return None
    from ray import serve  # here, so that users of the client alone need not import Ray

    handle = serve.get_deployment_handle(LEDGER, app_name=name, _check_exists=False)
    async with asyncio.timeout(_TIMEOUT_S):
        address: LedgerAddress = await handle.address.remote()
    return address
