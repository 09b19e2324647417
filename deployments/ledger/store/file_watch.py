"""Notices that SQLite's file is gone, or is another one, or can no longer be opened.

A process that has the file open does not: it reads from its cache, and writes to a file that has
been deleted. Everything would seem well until the next start.
"""

import contextlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path


class FileWatch:
    """The file of one database, as long as this process uses it."""

    def __init__(self, path: Path) -> None:
        """Watch a file that may not exist yet."""
        self._path = path
        self._inode: int | None = None
        self.has_tables = False
        """Whether the tables have been there: then they must stay there."""

    def create_privately(self) -> None:
        """Create the file if it has never been there, readable by its owner only.

        Raises:
            OSError: it cannot be created, or was deleted.
        """
        if not self.has_tables:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Only if the file does not exist: closing any descriptor of a file releases all locks
            # that this process has on it, and another process would then delete SQLite's journal.
            with contextlib.suppress(FileExistsError):
                # SQLite creates the files beside it with the same mode.
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                os.close(os.open(self._path, flags, 0o600))
        if self._inode is None:
            self._inode = os.stat(self._path).st_ino

    def is_replaced(self) -> bool:
        """Return whether the file is not the one that was opened.

        Raises:
            OSError: it was deleted.
        """
        return self._inode is not None and os.stat(self._path).st_ino != self._inode

    def forget(self) -> None:
        """Take the file that is there now for the database."""
        self._inode = None
        self.has_tables = False

    def check(self, timeout_s: float) -> None:
        """Open the file anew, as the next process will, and read the keys (0.2 ms).

        Raises:
            sqlite3.Error: it is not a database any more, or has lost its tables.
        """
        with closing(sqlite3.connect(self._path, timeout=timeout_s)) as connection:
            # The table, not an index of it.
            what = "keys NOT INDEXED" if self.has_tables else "sqlite_schema"
            connection.execute(f"SELECT count(*) FROM {what}").fetchone()
