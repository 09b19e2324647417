import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from api.ports.rate_limits import Amounts, LimitExceeded
from api.ports.tenancy import KeyLimits
from deployments.ledger.key_publisher import KeyPublisher
from deployments.ledger.limits.accounts import Accounts
from deployments.ledger.pepper import to_pepper_fingerprint
from deployments.ledger.protocol import KeySet
from deployments.ledger.store.database import Database
from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.keys import KeyStore
from deployments.ledger.store.usage import UsageStore
from tests.helpers.ledger_cluster import make_record, until

PEPPER = b"p" * 32


class BreakableKeys(KeyStore):
    """Keys in a database that can be out of reach."""

    is_broken = False

    async def version(self) -> int:
        if self.is_broken:
            raise StoreError("the database is away")
        return await super().version()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'triptych.db'}")
    yield database
    await database.close()


@pytest.fixture
def keys(database: Database) -> BreakableKeys:
    return BreakableKeys(database, PEPPER)


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


@pytest.fixture
async def published(
    database: Database, keys: BreakableKeys, accounts: Accounts
) -> AsyncIterator[list[KeySet | None]]:
    """What a running publisher has published so far."""
    published: list[KeySet | None] = []
    usage = UsageStore(database)
    publisher = KeyPublisher(keys, usage, accounts, published.append, poll_interval_s=0.01)
    task = asyncio.create_task(publisher.run())
    yield published
    task.cancel()
    await asyncio.wait([task])


def names(key_set: KeySet | None) -> list[str]:
    assert key_set is not None
    return [stored.key.name for stored in key_set.keys]


async def test_new_database_is_migrated_and_publishes_no_keys(published: list[KeySet | None]):
    await until(lambda: published)

    assert published == [KeySet([], to_pepper_fingerprint(PEPPER))]


async def test_each_change_of_the_keys_is_published(
    published: list[KeySet | None], keys: BreakableKeys
):
    await until(lambda: published)
    await keys.create_key({"name": "app"})
    await until(lambda: len(published) == 2)
    await keys.delete_key("app")
    await until(lambda: len(published) == 3)

    assert [names(each) for each in published] == [[], ["app"], []]


async def test_limits_of_the_keys_are_in_force_when_they_are_published(
    published: list[KeySet | None], keys: BreakableKeys, accounts: Accounts
):
    await until(lambda: published)
    new = await keys.create_key({"name": "app", "limits": KeyLimits(requests_per_minute=0)})
    await until(lambda: len(published) == 2)

    outcome = await accounts.reserve("s", "1", new.key.id, Amounts(requests=1))
    assert isinstance(outcome, LimitExceeded)


async def test_quotas_start_from_the_recorded_usage(
    database: Database, keys: BreakableKeys, accounts: Accounts
):
    usage, published = UsageStore(database), []
    await keys.prepare()
    key = (await keys.create_key({"name": "app", "limits": KeyLimits(tokens_per_day=10)})).key
    await usage.add([make_record(key_id=key.id, prompt_tokens=10)])
    publisher = KeyPublisher(keys, usage, accounts, published.append, poll_interval_s=0.01)
    task = asyncio.create_task(publisher.run())
    await until(lambda: published)
    outcome = await accounts.reserve("s", "1", key.id, Amounts(tokens=1))
    task.cancel()
    await asyncio.wait([task])  # before the database is closed: it has a connection of it

    assert isinstance(outcome, LimitExceeded)
    assert (outcome.limit_name, outcome.used) == ("day", 10)


async def test_quotas_are_set_again_where_the_store_may_lose_them(
    database: Database, keys: BreakableKeys, accounts: Accounts
):
    usage, published = UsageStore(database), []
    await keys.prepare()
    key = (await keys.create_key({"name": "app", "limits": KeyLimits(tokens_per_day=10)})).key
    publisher = KeyPublisher(
        keys, usage, accounts, published.append, poll_interval_s=0.01, reseed_interval_s=0.01
    )
    task = asyncio.create_task(publisher.run())
    await until(lambda: published)
    await usage.add([make_record(key_id=key.id, prompt_tokens=10)])
    async with asyncio.timeout(5):
        while not isinstance(
            await accounts.reserve("s", "1", key.id, Amounts(tokens=1)), LimitExceeded
        ):
            await accounts.settle("1", Amounts())
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])  # before the database is closed: it has a connection of it


async def test_unreadable_keys_are_published_as_none_until_they_are_read(
    published: list[KeySet | None], keys: BreakableKeys, caplog: pytest.LogCaptureFixture
):
    keys.is_broken = True
    await until(lambda: len(published) >= 3)
    keys.is_broken = False
    await until(lambda: published[-1] is not None)

    assert published[0] is None
    assert caplog.text.count("none is accepted: the database is away") == 1


async def test_keys_stay_valid_with_a_note_while_the_database_is_away(
    published: list[Any], keys: BreakableKeys
):
    await until(lambda: published)
    await keys.create_key({"name": "app"})
    await until(lambda: len(published) == 2)
    keys.is_broken = True
    await until(lambda: len(published) == 3)
    keys.is_broken = False
    await until(lambda: len(published) == 4)

    assert names(published[2]) == names(published[3]) == ["app"]
    assert "cannot be read since" in published[2].note
    assert published[3].note is None


async def test_other_pepper_than_the_databases_publishes_no_keys(
    published: list[KeySet | None], database: Database, caplog: pytest.LogCaptureFixture
):
    await until(lambda: published)
    others: list[KeySet | None] = []
    publisher = KeyPublisher(
        KeyStore(database, b"q" * 32),
        UsageStore(database),
        Accounts(),
        others.append,
        poll_interval_s=0.01,
    )
    task = asyncio.create_task(publisher.run())
    await until(lambda: others)
    task.cancel()
    await asyncio.wait([task])  # before the database is closed: it has a connection of it

    assert others[0] is None
    assert "TRIPTYCH_PEPPER" in caplog.text
