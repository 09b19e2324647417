from collections.abc import AsyncIterator

import pytest

from deployments.ledger.store.database import Database


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated, empty database."""
    database = Database(database_url)
    await database.migrate()
    yield database
    await database.close()
