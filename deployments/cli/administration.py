"""Opens the keys and usage that the options choose: a database or a running service.

Apart from `command.py`, because its imports (SQLAlchemy, Alembic, aiohttp) take most of a second.
"""

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.ports.administration import KeyAdministration, UsageReporting
from deployments.cli.command import ADMIN_KEY_VARIABLE, CommandError
from deployments.cli.http_administration import HttpAdministration
from deployments.home import find_home
from deployments.ledger.audit_log import AuditLog
from deployments.ledger.pepper import load_pepper
from deployments.ledger.store.database import Database, default_url
from deployments.ledger.store.keys import KeyStore
from deployments.ledger.store.usage import UsageStore


@asynccontextmanager
async def open_administration(
    options: argparse.Namespace,
) -> AsyncIterator[tuple[KeyAdministration, UsageReporting]]:
    """Open the keys and usage for the length of a block.

    Yields:
        Where keys are administered, and where usage is reported.

    Raises:
        CommandError: the admin key is missing, or the pepper cannot be read.
        StoreError: the database cannot be used.
    """
    if options.url is not None:
        admin_key = os.environ.get(ADMIN_KEY_VARIABLE)
        if not admin_key:
            raise CommandError(
                f"--url needs an admin key in the environment variable {ADMIN_KEY_VARIABLE}"
            )
        async with HttpAdministration(options.url, admin_key) as remote:
            yield remote, remote
        return
    database = Database(options.database or default_url())
    audit = AuditLog(find_home() / "logs" / "audit.jsonl", actor="cli")
    try:
        keys = KeyStore(database, _load_pepper(), audit)
        await keys.prepare()
        yield keys, UsageStore(database)
    finally:
        await database.close()


def _load_pepper() -> bytes:
    try:
        return load_pepper()
    except (ValueError, OSError) as error:
        raise CommandError(f"the pepper of the keys: {error}") from None
