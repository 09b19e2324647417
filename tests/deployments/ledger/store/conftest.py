from collections.abc import AsyncIterator

import pytest

from deployments.ledger.store.database import Database


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """One with our tables, and nothing in them."""
    database = Database(database_url)
    await database.migrate()
    yield database
    await database.close()
