import asyncio
import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, select, text

from deployments.ledger.store.database import Database, default_url
from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.tables import changes, metadata

COLUMNS = {
    "keys": [
        "id",
        "name",
        "tenant",
        "models",
        "scopes",
        "limits",
        "priority",
        "may_log_prompts",
        "created_at_s",
        "expires_at_s",
        "is_disabled",
        "digest",
        "previous_digest",
        "previous_until_s",
    ],
    "changes": ["id", "version", "pepper_mark", "min_reader"],
    "usage": [
        "id",
        "time_s",
        "day",
        "request_id",
        "key_id",
        "tenant",
        "user",
        "endpoint",
        "model",
        "adapter",
        "kind",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "reasoning_tokens",
        "images",
        "image_steps",
        "image_pixel_steps",
        "queue_ms",
        "ttft_ms",
        "total_ms",
        "finish_reason",
        "error_code",
        "is_streamed",
    ],
    "usage_days": [
        "day",
        "key_id",
        "tenant",
        "user",
        "model",
        "kind",
        "requests",
        "errors",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "reasoning_tokens",
        "images",
        "image_steps",
        "image_pixel_steps",
    ],
}

MIGRATE = """
import asyncio, sys
from deployments.ledger.store.database import Database

async def main():
    database = Database(sys.argv[1])
    await database.migrate()
    await database.close()

asyncio.run(main())
"""

WRITE_AND_DIE = """
import asyncio, os, signal, sys
from sqlalchemy import text
from deployments.ledger.store.database import Database

async def main():
    database = Database(sys.argv[1])
    async with database.writing() as connection:
        await connection.execute(text("UPDATE changes SET version = 7"))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def version(database: Database) -> int:
    async with database.reading() as connection:
        return int((await connection.execute(select(changes.c.version))).scalar_one())


async def migrate_elsewhere(url: str) -> bytes:
    """Migrate in another process; returns its stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MIGRATE, url, stderr=subprocess.PIPE
    )
    return (await process.communicate())[1]


async def change_and_fail(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(text("UPDATE changes SET version = 7"))
        raise LookupError


async def select_nothing_such(database: Database) -> None:
    async with database.reading() as connection:
        await connection.execute(text("SELECT nothing_such WHERE 'a' = :b"), {"b": "a value"})


async def test_tables_and_columns_keep_their_names(database: Database) -> None:
    """Databases that exist have these; a new name needs a migration."""
    await database.migrate()

    def read_columns(connection: Connection) -> dict[str, list[str]]:
        inspector = inspect(connection)
        names = [name for name in inspector.get_table_names() if name != "alembic_version"]
        return {name: [each["name"] for each in inspector.get_columns(name)] for name in names}

    async with database.reading() as connection:
        assert await connection.run_sync(read_columns) == COLUMNS


async def test_migrations_create_the_tables_of_the_code(database: Database) -> None:
    def compare(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with database.reading() as connection:
        assert await connection.run_sync(compare) == []


async def test_migrating_twice_changes_nothing_and_is_fast(database: Database) -> None:
    before = time.process_time()
    await database.migrate()

    assert time.process_time() - before < 1
    assert await version(database) == 1


async def test_concurrent_migrations_succeed(database_url: str) -> None:
    errors = await asyncio.gather(*(migrate_elsewhere(database_url) for _ in range(4)))
    database = Database(database_url)

    assert errors == [b""] * 4
    assert await version(database) == 1
    await database.close()


async def test_migration_waits_for_another_writer_of_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "triptych.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # a new file has no write-ahead log yet
        database = Database(f"sqlite:///{path}")
        migrating = asyncio.create_task(database.migrate())
        await asyncio.sleep(0.2)
        other.execute("COMMIT")

    await migrating

    assert await version(database) == 1
    await database.close()


async def test_migration_of_current_tables_does_not_wait_for_a_writer(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(text("UPDATE changes SET version = 7"))

        await asyncio.wait_for(database.migrate(), 2)


async def test_committed_change_survives_a_killed_writer(
    database: Database, database_url: str
) -> None:
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", WRITE_AND_DIE, database_url]
    )

    assert done.returncode == -signal.SIGKILL
    assert await version(database) == 7


async def test_error_rolls_back_the_transaction(database: Database) -> None:
    with pytest.raises(LookupError):
        await change_and_fail(database)

    assert await version(database) == 1


async def test_concurrent_writers_wait_for_each_other(database: Database) -> None:
    async def add_one() -> None:
        async with database.writing() as connection:
            await connection.execute(changes.update().values(version=changes.c.version + 1))

    await asyncio.gather(*(add_one() for _ in range(20)))

    assert await version(database) == 21


async def test_reader_does_not_wait_for_a_writer(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(text("UPDATE changes SET version = 7"))

        assert await version(database) == 1


async def test_statement_error_is_one_line_without_values(database: Database) -> None:
    with pytest.raises(StoreError) as caught:
        await select_nothing_such(database)

    assert "nothing_such" in str(caught.value)
    assert "a value" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_unreachable_server_raises_without_the_password() -> None:
    database = Database("postgresql://user:opensesame@127.0.0.1:1/name")
    with pytest.raises(StoreError) as caught:
        await database.migrate()

    assert "opensesame" not in str(caught.value) + repr(caught.value) + repr(database)
    assert "127.0.0.1:1" in str(caught.value)
    assert caught.value.__cause__ is None


async def test_unknown_database_raises(postgres_port: int) -> None:
    database = Database(f"postgresql://postgres:opensesame@127.0.0.1:{postgres_port}/nothing_such")

    with pytest.raises(StoreError, match="nothing_such"):
        await database.migrate()


async def test_lost_connection_is_replaced(postgresql_url: str) -> None:
    database = Database(postgresql_url)
    await database.migrate()
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    other = Database(postgresql_url)
    async with other.writing() as connection:
        await connection.execute(text(f"{others} AND datname = current_database()"))

    assert await version(database) == 1
    await database.close()
    await other.close()


@pytest.mark.parametrize("url", ["", "opensesame", "mysql://u:opensesame@h/d", "sqlite"])
def test_invalid_url_raises_without_being_quoted(url: str) -> None:
    with pytest.raises(StoreError, match="begins with sqlite:/// or postgresql://") as caught:
        Database(url)

    assert "opensesame" not in str(caught.value)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_sqlite_url_without_a_file_raises(url: str) -> None:
    with pytest.raises(StoreError, match="an SQLite database needs a file"):
        Database(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////a/b.db", "sqlite+aiosqlite:////a/b.db"),
        ("postgres://u:p@h/d", "postgresql+asyncpg://u:***@h/d"),
        ("postgresql://u@h:5/d?sslmode=require", "postgresql+asyncpg://u@h:5/d?ssl=require"),
        ("postgresql+asyncpg://h/d", "postgresql+asyncpg://h/d"),
    ],
)
def test_url_gets_its_driver(url: str, shown: str) -> None:
    assert repr(Database(url)) == f"Database({shown!r})"


def test_new_database_opens_no_connection(tmp_path: Path) -> None:
    Database(f"sqlite:///{tmp_path}/x/triptych.db")

    assert not (tmp_path / "x").exists()


async def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/x/triptych.db")
    await database.migrate()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "x").iterdir()}

    assert modes == dict.fromkeys(("triptych.db", "triptych.db-shm", "triptych.db-wal"), 0o600)
    await database.close()


async def test_file_that_is_not_a_database_raises(tmp_path: Path) -> None:
    (tmp_path / "triptych.db").write_text("no database " * 100)

    with pytest.raises(StoreError, match=r"triptych\.db: .*not a database"):
        await Database(f"sqlite:///{tmp_path}/triptych.db").migrate()


async def test_folder_that_cannot_be_created_raises(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")

    with pytest.raises(StoreError, match="Not a directory"):
        await Database(f"sqlite:///{tmp_path}/x/y/triptych.db").migrate()


def test_default_url_is_a_file_in_the_home_unless_the_environment_sets_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TRIPTYCH_DATABASE_URL", raising=False)
    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path))
    in_home = default_url()
    monkeypatch.setenv("TRIPTYCH_DATABASE_URL", "postgresql://h/d")

    assert in_home == f"sqlite:///{tmp_path}{os.sep}triptych.db"
    assert default_url() == "postgresql://h/d"


async def test_another_process_that_exits_does_not_delete_the_journal(tmp_path: Path) -> None:
    """SQLite's locks belong to the process: closing any descriptor of the file releases them all.

    The other process would then take itself for the last one, and delete the journal in use.
    """
    path, journal = tmp_path / "triptych.db", tmp_path / "triptych.db-wal"
    database = Database(f"sqlite:///{path}")
    await database.migrate()
    async with database.reading() as first, database.reading() as second:
        for connection in (first, second):
            await connection.execute(text("SELECT * FROM keys"))
    before = journal.stat().st_ino
    await asyncio.to_thread(change_and_leave, path)

    assert journal.stat().st_ino == before
    await database.close()


def change_and_leave(path: Path) -> None:
    change = (
        "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1]); "
        "connection.execute('UPDATE changes SET version = 99'); "
        "connection.commit(); connection.close()"
    )
    subprocess.run([sys.executable, "-c", change, path], check=True)
