"""A database file that is damaged, deleted or replaced while it is open.

SQLite itself goes on as if nothing had happened.
"""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.ledger.key_publisher import KeyPublisher
from deployments.ledger.limits.accounts import Accounts
from deployments.ledger.protocol import KeySet
from deployments.ledger.store.database import Database
from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.keys import KeyStore
from deployments.ledger.store.usage import UsageStore
from tests.helpers.ledger_cluster import make_record, until

PEPPER = b"p" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "triptych.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    """A database with one key, of which nothing is in the journal any more."""
    database = Database(f"sqlite:///{path}")
    keys = KeyStore(database, PEPPER)
    await keys.prepare()
    await keys.create_key({"name": "app"})
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    yield database
    await database.close()


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"garbage!" * 200)


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def put_garbage_in_its_place(path: Path) -> None:
    draft = path.with_suffix(".new")
    draft.write_bytes(b"garbage!" * 1000)
    draft.rename(path)


DAMAGES = [overwrite, truncate, Path.unlink, put_garbage_in_its_place]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_is_noticed_and_nothing_is_written(
    database: Database, path: Path, damage: Callable[[Path], None]
) -> None:
    damage(path)

    for _ in range(2):
        with pytest.raises(StoreError, match=r"triptych\.db: [^/]*$"):
            await KeyStore(database, PEPPER).version()
        with pytest.raises(StoreError):
            await UsageStore(database).add([make_record()])


@pytest.mark.parametrize("damage", DAMAGES)
async def test_keys_stay_valid_with_a_note_until_the_file_is_restored(
    database: Database,
    path: Path,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    backup = path.with_name("backup")
    shutil.copy(path, backup)
    published: list[Any] = []
    keys, usage = KeyStore(database, PEPPER), UsageStore(database)
    publisher = KeyPublisher(keys, usage, Accounts(), published.append, poll_interval_s=0.01)
    task = asyncio.create_task(publisher.run())
    try:
        await until(lambda: published)
        damage(path)
        await until(lambda: published[-1].note)
        stale = published[-1]
        backup.rename(path)
        await until(lambda: published[-1].note is None)
    finally:
        task.cancel()
        await asyncio.wait([task])

    assert [names(each) for each in (stale, published[-1])] == [["app"], ["app"]]
    assert caplog.text.count("those read before stay valid") == 1
    await usage.add([make_record()])


def names(key_set: KeySet) -> list[str]:
    return [stored.key.name for stored in key_set.keys]


async def test_file_that_another_process_changes_is_not_damaged(
    database: Database, path: Path
) -> None:
    other = Database(f"sqlite:///{path}")
    await KeyStore(other, PEPPER).create_key({"name": "new"})
    await other.close()

    assert len(await KeyStore(database, PEPPER).list_keys()) == 2
