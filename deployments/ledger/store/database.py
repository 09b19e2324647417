"""The database of keys and usage: an SQLite file, or PostgreSQL by URL."""

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg  # type: ignore[import-untyped]  # ships no type hints
from sqlalchemy import URL, Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from deployments.config.urls import to_async_url
from deployments.home import find_home
from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.file_watch import FileWatch
from deployments.ledger.store.schema_version import compare, upgrade

logger = logging.getLogger(__name__)

VARIABLE = "TRIPTYCH_DATABASE_URL"
_TIMEOUT_S = 5
"""How long to wait for another writer (SQLite), a connection, or the server (PostgreSQL)."""
_STATEMENT_S = 60
_MIGRATION_LOCK = 0x747269707479  # an arbitrary number; "tripty" in ASCII
_IS_WRITING = "triptych_is_writing"
# SQLAlchemy does not wrap what asyncpg raises while connecting.
_ERRORS = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    sqlite3.Error,
    OSError,
)


def default_url() -> str:
    """The URL in the environment, else a file in the home folder."""
    return os.environ.get(VARIABLE) or f"sqlite:///{find_home() / 'triptych.db'}"


class Database:
    """Connections to one database, opened when needed."""

    def __init__(self, url: str) -> None:
        """Prepare for `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`.

        Raises:
            StoreError: the URL has neither form.
        """
        try:
            self._url = to_async_url(url)
        except ValueError as error:
            raise StoreError(str(error)) from None
        self._file: FileWatch | None = None
        if self._url.get_backend_name() == "sqlite":
            self._file = FileWatch(Path(str(self._url.database)))
            self._engine = _sqlite_engine(self._url, self._file)
        else:
            self._engine = _postgresql_engine(self._url)
        self._writer = self._engine.execution_options(**{_IS_WRITING: True})
        self._has_warned = False

    def __repr__(self) -> str:
        """Show the URL without the password."""
        return f"Database({self._url.render_as_string(hide_password=True)!r})"

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Open a read-only transaction.

        Raises:
            StoreError: the database cannot be used.
        """
        async with self._transaction(self._engine) as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Open a transaction that is committed at the end; on SQLite it locks out other writers.

        Raises:
            StoreError: the database cannot be used; nothing was changed.
        """
        async with self._transaction(self._writer) as connection:
            yield connection

    async def migrate(self) -> None:
        """Migrate older tables to this version of the code; several processes may do it at once.

        Newer tables are used as they are, if this version of the code may use them.

        Raises:
            StoreError: the migration failed, or the tables are too new for this version.
        """
        async with self.reading() as connection:
            age = await connection.run_sync(compare)
        if age == "newer":
            self._warn_once()
        if age == "older":
            await self._upgrade()
        if self._file is not None:
            self._file.has_tables = True

    async def _upgrade(self) -> None:
        async with self.writing() as connection:
            if connection.dialect.name == "postgresql":
                await connection.execute(
                    text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK}
                )
            await connection.run_sync(upgrade)

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()

    def _warn_once(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "the database was migrated by a newer version of Triptych; this version goes on "
                "with it"
            )

    @asynccontextmanager
    async def _transaction(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        try:
            if self._file is not None and self._file.is_replaced():
                await self._engine.dispose()  # closes the old one
                self._file.forget()
                raise OSError(None, "the file was replaced by another, which is used from now on")
            async with engine.begin() as connection:
                if self._file is not None:
                    await asyncio.to_thread(self._file.check, _TIMEOUT_S)
                yield connection
        except _ERRORS as error:
            raise StoreError(self._to_reason(error)) from None

    def _to_reason(self, error: Exception) -> str:
        """One line, without the statement, its parameters and the password."""
        cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
        message = getattr(cause, "strerror", None) or str(cause)  # an OSError repeats the path
        line = " ".join(message.split())[:300] or type(cause).__name__
        if self._url.password:
            line = line.replace(str(self._url.password), "***")
        return f"the database {self._url.render_as_string(hide_password=True)}: {line}"


def _postgresql_engine(url: URL) -> AsyncEngine:
    return create_async_engine(
        url,
        connect_args={"timeout": _TIMEOUT_S, "command_timeout": _STATEMENT_S},
        pool_timeout=_TIMEOUT_S,
        pool_pre_ping=True,  # replaces connections that a restart of the server has broken
        hide_parameters=True,
    )


def _sqlite_engine(url: URL, file: FileWatch) -> AsyncEngine:
    engine = create_async_engine(
        url, connect_args={"timeout": _TIMEOUT_S}, pool_timeout=_TIMEOUT_S, hide_parameters=True
    )
    sync_engine: Engine = engine.sync_engine

    @event.listens_for(sync_engine, "do_connect")
    def _create_private_file(*_: Any) -> None:
        file.create_privately()

    @event.listens_for(sync_engine, "connect")
    def _set_up(connection: Any, _: Any) -> None:
        # Python's sqlite3 must not begin transactions itself: it does so at the first write only.
        connection.isolation_level = None
        connection.run_async(_enable_write_ahead_log)
        cursor = connection.cursor()
        # FULL: a disabled key stays disabled after a power cut. Usage is written in groups, so one
        # fsync serves many records.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    @event.listens_for(sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads before it writes would fail beside another one (SQLITE_BUSY).
        is_writing = connection.get_execution_options().get(_IS_WRITING)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")

    return engine


async def _enable_write_ahead_log(connection: aiosqlite.Connection) -> None:
    """Retry while the file is busy: SQLite's own timeout does not apply to this statement."""
    end = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            await connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        await asyncio.sleep(0.01)
