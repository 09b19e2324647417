"""Databases of older and of newer versions of the code."""

import logging
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, inspect, select, text

from api.ports.administration import UsageQuery
from deployments.ledger.store import migrations
from deployments.ledger.store.database import Database
from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.keys import KeyStore
from deployments.ledger.store.roll_up import roll_up
from deployments.ledger.store.tables import changes
from deployments.ledger.store.usage import UsageStore
from tests.helpers.ledger_cluster import make_record

FOLDER = Path(migrations.__file__).parent
PEPPER = b"p" * 32
EVER = UsageQuery(0, 2**40, group_by=("key",))
EXPAND = (
    "CREATE TABLE things (id INTEGER PRIMARY KEY)",
    "ALTER TABLE keys ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'",
    "ALTER TABLE usage ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'",
    "ALTER TABLE usage_days ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'",
    "ALTER TABLE changes ADD COLUMN colour TEXT NOT NULL DEFAULT 'red'",
)
"""What a revision of a newer version may do."""


async def migrate_as_newer(database: Database, min_reader: str) -> None:
    """Change the tables of this version as a newer version might."""
    async with database.writing() as connection:
        for statement in EXPAND:
            await connection.execute(text(statement))
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        await connection.execute(changes.update().values(min_reader=min_reader))


def create_first_tables(connection: Connection) -> None:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(FOLDER))
    command.upgrade(config, "0001")


async def read_versions(database: Database) -> tuple[str, str]:
    """The revision of the tables, and their `min_reader`."""
    async with database.reading() as connection:
        revision = await connection.execute(text("SELECT version_num FROM alembic_version"))
        min_reader = await connection.execute(select(changes.c.min_reader))
        return revision.scalar_one(), min_reader.scalar_one()


def list_revisions() -> list[Script]:
    """All revisions, oldest first."""
    return list(ScriptDirectory(str(FOLDER)).walk_revisions())[::-1]


def test_every_revision_states_a_known_min_reader_that_never_falls() -> None:
    revisions = list_revisions()
    numbers = [revision.revision for revision in revisions]
    readers = [revision.module.min_reader for revision in revisions]

    assert set(readers) <= set(numbers)
    assert all(map(str.__le__, readers, numbers))
    assert readers == sorted(readers)
    assert numbers == sorted(numbers)


async def test_migration_writes_the_min_reader_of_the_last_revision(database: Database) -> None:
    last = list_revisions()[-1]

    assert await read_versions(database) == (last.revision, last.module.min_reader)


async def test_migration_from_the_first_tables_keeps_keys_and_usage(database_url: str) -> None:
    database = Database(database_url)
    async with database.writing() as connection:
        await connection.run_sync(create_first_tables)
    keys, usage = KeyStore(database, PEPPER), UsageStore(database)
    key = (await keys.create_key({"name": "app"})).key
    await usage.add([make_record(key_id=key.id, prompt_tokens=3)])
    version = await keys.version()
    await keys.prepare()

    assert await keys.list_keys() == [key]
    assert await keys.version() == version
    (row,) = await usage.report_usage(EVER)
    assert (row.key_name, row.requests, row.prompt_tokens) == ("app", 1, 3)
    await database.close()


async def test_newer_tables_are_used_if_their_min_reader_is_known(database: Database) -> None:
    await migrate_as_newer(database, min_reader="0002")
    keys, usage = KeyStore(database, PEPPER), UsageStore(database)
    await keys.prepare()
    key = (await keys.create_key({"name": "app"})).key
    changed = await keys.change_key("app", {"tenant": "acme"})
    await usage.add([make_record(key_id=key.id, prompt_tokens=3, time_s=0)])

    assert await keys.list_keys() == [changed]
    assert await roll_up(database, before_day=1) == 1
    (row,) = await usage.report_usage(EVER)
    assert (row.key_name, row.requests, row.prompt_tokens) == ("app", 1, 3)


async def test_newer_tables_are_not_migrated(database: Database) -> None:
    await migrate_as_newer(database, min_reader="0002")
    await database.migrate()
    async with database.reading() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())

    assert await read_versions(database) == ("9999", "0002")
    assert "things" in names


async def test_newer_tables_are_warned_of_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await migrate_as_newer(database, min_reader="0002")
    caplog.clear()
    await database.migrate()
    await database.migrate()

    assert [(record.levelno, record.message) for record in caplog.records] == [
        (
            logging.WARNING,
            "the database was migrated by a newer version of Triptych; this version goes on with "
            "it",
        )
    ]


async def test_newer_tables_with_an_unknown_min_reader_raise(database: Database) -> None:
    await migrate_as_newer(database, min_reader="9998")

    with pytest.raises(StoreError, match=r"its schema is 9999, for versions from schema 9998 on"):
        await database.migrate()
    assert await read_versions(database) == ("9999", "9998")
