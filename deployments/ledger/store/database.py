"""The database of keys and usage: an SQLite file, or PostgreSQL by URL."""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg  # type: ignore[import-untyped]  # it says nothing of its types
from sqlalchemy import URL, Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from deployments.config.urls import to_async_url
from deployments.home import find_home
from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.schema_version import is_current, upgrade

VARIABLE = "TRIPTYCH_DATABASE_URL"
_TIMEOUT_S = 5
"""How long to wait for another writer (SQLite), a connection, or the server (PostgreSQL)."""
_STATEMENT_S = 60
_MIGRATION_LOCK = 0x747269707479  # any number that nobody else takes; "tripty"
_IS_WRITING = "triptych_is_writing"


def default_url() -> str:
    """What the environment says, else a file in the home."""
    return os.environ.get(VARIABLE) or f"sqlite:///{find_home() / 'triptych.db'}"


class Database:
    """Connections to one database, made as they are needed."""

    def __init__(self, url: str) -> None:
        """Prepare for `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`.

        Raises:
            StoreError: the URL is of neither form.
        """
        try:
            self._url = to_async_url(url)
        except ValueError as error:
            raise StoreError(str(error)) from None
        if self._url.get_backend_name() == "sqlite":
            self._engine = _sqlite_engine(self._url)
        else:
            self._engine = _postgresql_engine(self._url)
        self._writer = self._engine.execution_options(**{_IS_WRITING: True})

    def __repr__(self) -> str:
        """Show which one it is, without the password."""
        return f"Database({self._url.render_as_string(hide_password=True)!r})"

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that changes nothing.

        Raises:
            StoreError: the database cannot be used.
        """
        async with self._transaction(self._engine) as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is committed at the end; on SQLite it has the file to itself.

        Raises:
            StoreError: the database cannot be used, and nothing was changed.
        """
        async with self._transaction(self._writer) as connection:
            yield connection

    async def migrate(self) -> None:
        """Bring the tables to this version of the code; several processes may do it at once.

        Raises:
            StoreError: that failed, or a newer version of the code has changed them.
        """
        async with self.reading() as connection:
            if await connection.run_sync(is_current):
                return
        async with self.writing() as connection:
            if connection.dialect.name == "postgresql":
                await connection.execute(
                    text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK}
                )
            await connection.run_sync(upgrade)

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _transaction(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        try:
            async with engine.begin() as connection:
                yield connection
        # SQLAlchemy does not wrap what asyncpg says while a connection is made.
        except (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise StoreError(self._to_reason(error)) from None

    def _to_reason(self, error: Exception) -> str:
        """One line, without the statement and its parameters."""
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        line = " ".join(str(cause).split())[:300] or type(cause).__name__
        if self._url.password:
            line = line.replace(str(self._url.password), "***")
        return f"the database {self._url.render_as_string(hide_password=True)}: {line}"


def _postgresql_engine(url: URL) -> AsyncEngine:
    return create_async_engine(
        url,
        connect_args={"timeout": _TIMEOUT_S, "command_timeout": _STATEMENT_S},
        pool_timeout=_TIMEOUT_S,
        pool_pre_ping=True,  # a server that was restarted is noticed before it costs a request
        hide_parameters=True,
    )


def _sqlite_engine(url: URL) -> AsyncEngine:
    engine = create_async_engine(
        url, connect_args={"timeout": _TIMEOUT_S}, pool_timeout=_TIMEOUT_S, hide_parameters=True
    )
    path = Path(str(url.database))
    sync_engine: Engine = engine.sync_engine

    @event.listens_for(sync_engine, "do_connect")
    def _make_privately(*_: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Only while nobody has it open: to close any descriptor of a file gives up all locks
        # that this process has on it, and others would then delete SQLite's journal.
        with contextlib.suppress(FileExistsError):
            # SQLite gives the files beside it the same mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    @event.listens_for(sync_engine, "connect")
    def _set_up(connection: Any, _: Any) -> None:
        # Python's sqlite3 must not begin transactions by itself: it would begin them too late.
        connection.isolation_level = None
        connection.run_async(_keep_a_write_ahead_log)
        cursor = connection.cursor()
        # FULL: a key that was disabled stays so also after a power cut, and usage is written in
        # groups, so that one fsync serves many records.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    @event.listens_for(sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and writes then would fail beside another one.
        is_writing = connection.get_execution_options().get(_IS_WRITING)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")

    return engine


async def _keep_a_write_ahead_log(connection: aiosqlite.Connection) -> None:
    """Set the file's mode. Alone among statements this does not wait for who else has it open."""
    end = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            await connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        await asyncio.sleep(0.01)
