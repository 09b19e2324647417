"""The accounts' state in an SQLite file, so that windows and reservations survive a killed process.

Nothing waits for the disk. After a `kill -9` the kernel still has the written pages. After a power
failure the file is worthless anyway, because the windows' clock starts again with the machine.
"""

import contextlib
import logging
import sqlite3
import uuid
from dataclasses import dataclass
from pathlib import Path

from api.ports.rate_limits import Amounts
from deployments.ledger.limits.account import WindowName

logger = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_LAYOUT = "2"
"""To be changed with the tables."""

_EPOCH_TABLE = "CREATE TABLE IF NOT EXISTS epoch (id TEXT PRIMARY KEY) STRICT"
_TABLES = """
CREATE TABLE IF NOT EXISTS buckets (
    key_id TEXT, kind TEXT, tick INTEGER, amount INTEGER, PRIMARY KEY (key_id, kind, tick)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS holds (
    id TEXT PRIMARY KEY, session TEXT, key_id TEXT,
    requests INTEGER, tokens INTEGER, images INTEGER, slots INTEGER, pixel_steps INTEGER,
    tick INTEGER
) STRICT, WITHOUT ROWID;
"""

Bucket = tuple[str, WindowName, int, int]
"""Key id, window, second and amount."""


@dataclass(frozen=True, slots=True)
class OpenReservation:
    """A reservation that is not settled yet."""

    id: str
    session: str
    key_id: str
    amounts: Amounts
    second: int
    """When it was made, rounded down: unused amounts are refunded to this second's buckets."""


class SqliteState:
    """Collects changes, and writes them when flushed.

    When a write fails, the file is deleted and writing stops for good. Limits then live in memory
    only, and the next process starts empty rather than with half of them. The same if the file can
    be neither opened nor replaced, as on a full or read-only disk.

    Args:
        path: the file, in an existing folder. A broken file, or one of another boot, is replaced.
        boot_id: identifies the run of the monotonic clock that seconds are on; the kernel's by
            default.
    """

    def __init__(self, path: Path, boot_id: str | None = None) -> None:
        self._path = path
        self._epoch = f"{boot_id or _read_boot_id()} {_LAYOUT}"
        self._buckets: dict[tuple[str, WindowName, int], int] = {}
        self._reservations: dict[str, OpenReservation | None] = {}
        self._delete_before: int | None = None
        self._connection: sqlite3.Connection | None = self._connect()

    def load(self) -> tuple[list[Bucket], list[OpenReservation]]:
        """Read what the last process left; buckets oldest first."""
        if self._connection is None:
            return [], []
        buckets = self._connection.execute(
            "SELECT key_id, kind, tick, amount FROM buckets WHERE amount > 0 ORDER BY tick"
        ).fetchall()
        rows = self._connection.execute(
            "SELECT id, session, key_id, requests, tokens, images, slots, pixel_steps, tick "
            "FROM holds"
        )
        reservations = [
            OpenReservation(id_, session, key_id, Amounts(*amounts), second)
            for id_, session, key_id, *amounts, second in rows
        ]
        return buckets, reservations

    def put_bucket(self, key_id: str, name: WindowName, second: int, amount: int) -> None:
        """Store the total of a bucket."""
        self._buckets[key_id, name, second] = amount

    def put_reservation(self, reservation: OpenReservation) -> None:
        """Store a reservation until it is deleted."""
        self._reservations[reservation.id] = reservation

    def delete_reservation(self, reservation_id: str) -> None:
        """Delete a reservation that has ended."""
        self._reservations[reservation_id] = None

    def delete_before(self, second: int) -> None:
        """Delete the buckets of earlier seconds."""
        self._delete_before = second

    def flush(self) -> None:
        """Write all changes in one transaction."""
        has_changes = self._buckets or self._reservations or self._delete_before is not None
        if self._connection is not None and has_changes:
            try:
                self._write(self._connection)
            except sqlite3.Error as error:
                self._warn(error)
                self.close()
                with contextlib.suppress(OSError):
                    self._delete()
        self._buckets.clear()
        self._reservations.clear()
        self._delete_before = None

    def close(self) -> None:
        """Close the file; later flushes write nothing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _write(self, connection: sqlite3.Connection) -> None:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(
                "INSERT OR REPLACE INTO buckets VALUES (?, ?, ?, ?)",
                [(*bucket, amount) for bucket, amount in self._buckets.items()],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_to_row(each) for each in self._reservations.values() if each is not None],
            )
            connection.executemany(
                "DELETE FROM holds WHERE id = ?",
                [(id_,) for id_, each in self._reservations.items() if each is None],
            )
            if self._delete_before is not None:
                connection.execute("DELETE FROM buckets WHERE tick < ?", (self._delete_before,))

    def _warn(self, error: Exception) -> None:
        logger.warning(
            "the state of the limits cannot be written to %s (%s): it is kept in memory only, and "
            "is lost when the ledger ends",
            self._path,
            error,
        )

    def _connect(self) -> sqlite3.Connection | None:
        try:
            return self._open()
        except sqlite3.DatabaseError as error:
            logger.warning("%s is broken (%s): the limits start empty", self._path, error)
        try:
            self._delete()
            return self._open()
        except (sqlite3.Error, OSError) as error:
            self._warn(error)
            return None

    def _open(self) -> sqlite3.Connection:
        # Used by one thread at a time, which need not be the thread that opened it.
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            (check,) = connection.execute("PRAGMA quick_check").fetchone()
            if check != "ok":
                raise sqlite3.DatabaseError(check)
            connection.execute(_EPOCH_TABLE)
            if connection.execute("SELECT id FROM epoch").fetchall() != [(self._epoch,)]:
                self._begin_epoch(connection)
            connection.executescript(_TABLES)
        except BaseException:
            connection.close()
            raise
        return connection

    def _begin_epoch(self, connection: sqlite3.Connection) -> None:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DROP TABLE IF EXISTS buckets")
            connection.execute("DROP TABLE IF EXISTS holds")
            connection.execute("DELETE FROM epoch")
            connection.execute("INSERT INTO epoch VALUES (?)", (self._epoch,))

    def _delete(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)


def _to_row(reservation: OpenReservation) -> tuple[str | int, ...]:
    taken = reservation.amounts
    amounts = (
        taken.requests,
        taken.tokens,
        taken.images,
        taken.concurrent,
        taken.pixel_steps,
    )
    return (
        reservation.id,
        reservation.session,
        reservation.key_id,
        *amounts,
        reservation.second,
    )


def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return uuid.uuid4().hex  # unknown, so treat the file as one of another boot
