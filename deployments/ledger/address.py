"""Where the ledger listens, and how its clients find it."""

import asyncio
from dataclasses import dataclass

from deployments.discovery import LEDGER, fetch_details, find_ledger_application

_LEDGER_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class LedgerAddress:
    """Where the ledger listens, and what a caller must say first."""

    host: str
    port: int
    auth_token: bytes


async def find_ledger() -> LedgerAddress | None:
    """Where the ledger listens; None if the configuration has none.

    Raises:
        Exception: it, or the controller, is not up.
    """
    name = find_ledger_application(await fetch_details())
    if name is None:
        return None
    from ray import serve

    handle = serve.get_deployment_handle(LEDGER, app_name=name, _check_exists=False)
    async with asyncio.timeout(_LEDGER_TIMEOUT_S):
        address: LedgerAddress = await handle.address.remote()
    return address
