"""What of the accounts survives a killed process: windows and holds, in a SQLite file.

Nothing waits for the disk: a `kill -9` leaves the pages that were written to the kernel, and what
a power failure leaves is worthless, because the clock of the windows begins anew with the machine.
"""

import logging
import sqlite3
import uuid
from dataclasses import dataclass
from pathlib import Path

from api.ports.rate_limits import Amounts
from deployments.ledger.limits.account import Windowed

logger = logging.getLogger(__name__)

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_LAYOUT = "1"
"""Changes with the tables."""

_TABLES = """
CREATE TABLE IF NOT EXISTS epoch (id TEXT PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS buckets (
    key_id TEXT, kind TEXT, tick INTEGER, amount INTEGER, PRIMARY KEY (key_id, kind, tick)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS holds (
    id TEXT PRIMARY KEY, session TEXT, key_id TEXT,
    requests INTEGER, tokens INTEGER, images INTEGER, slots INTEGER, tick INTEGER
) STRICT, WITHOUT ROWID;
"""

Bucket = tuple[str, Windowed, int, int]
"""Key, kind, tick and amount."""


@dataclass(frozen=True, slots=True)
class OpenReservation:
    """A reservation, until it is settled."""

    id: str
    session: str
    key_id: str
    amounts: Amounts
    tick: int
    """The second in which it was made, rounded down: what is not used goes back there."""


class SqliteState:
    """Collects changes, and writes them when told.

    When writing fails, it stops for good and says so in the log: the limits go on in memory, and
    the next process begins empty rather than with half of them.

    Args:
        path: of the file; its folder is there. A file that is broken or of another boot is
            replaced.
        boot_id: which run of the machine's clock the ticks are of; by default the kernel's.
    """

    def __init__(self, path: Path, boot_id: str | None = None) -> None:
        self._path = path
        self._epoch = f"{boot_id or _read_boot_id()} {_LAYOUT}"
        self._buckets: dict[tuple[str, Windowed, int], int] = {}
        self._holds: dict[str, OpenReservation | None] = {}
        self._forget_before: int | None = None
        self._connection: sqlite3.Connection | None = self._connect()

    def load(self) -> tuple[list[Bucket], list[OpenReservation]]:
        """What the last process left; buckets oldest first."""
        if self._connection is None:
            return [], []
        buckets = self._connection.execute(
            "SELECT key_id, kind, tick, amount FROM buckets WHERE amount > 0 ORDER BY tick"
        ).fetchall()
        rows = self._connection.execute(
            "SELECT id, session, key_id, requests, tokens, images, slots, tick FROM holds"
        )
        holds = [
            OpenReservation(id_, session, key_id, Amounts(*amounts), tick)
            for id_, session, key_id, *amounts, tick in rows
        ]
        return buckets, holds

    def put_bucket(self, key_id: str, kind: Windowed, tick: int, amount: int) -> None:
        """Remember all that a key took in this second."""
        self._buckets[key_id, kind, tick] = amount

    def put_hold(self, hold: OpenReservation) -> None:
        """Remember a hold until it is dropped."""
        self._holds[hold.id] = hold

    def drop_hold(self, hold_id: str) -> None:
        """The hold has ended."""
        self._holds[hold_id] = None

    def forget_before(self, tick: int) -> None:
        """Older buckets do not count any more."""
        self._forget_before = tick

    def flush(self) -> None:
        """Write what has changed, in one transaction."""
        if self._connection is not None and (self._buckets or self._holds):
            try:
                self._write(self._connection)
            except sqlite3.Error as error:
                logger.warning(
                    "the state of the limits cannot be written to %s (%s): they are kept in "
                    "memory only, and begin anew when the ledger does",
                    self._path,
                    error,
                )
                self.close()
                self._delete()
        self._buckets.clear()
        self._holds.clear()
        self._forget_before = None

    def close(self) -> None:
        """Let go of the file; nothing more is written."""
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
                "INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [_to_row(hold) for hold in self._holds.values() if hold is not None],
            )
            connection.executemany(
                "DELETE FROM holds WHERE id = ?",
                [(hold_id,) for hold_id, hold in self._holds.items() if hold is None],
            )
            if self._forget_before is not None:
                connection.execute("DELETE FROM buckets WHERE tick < ?", (self._forget_before,))

    def _connect(self) -> sqlite3.Connection:
        try:
            return self._open()
        except sqlite3.DatabaseError as error:
            logger.warning("%s is broken (%s): the limits begin anew", self._path, error)
            self._delete()
            return self._open()

    def _open(self) -> sqlite3.Connection:
        # One thread at a time uses it, though not always the one that made it.
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
            (check,) = connection.execute("PRAGMA quick_check").fetchone()
            if check != "ok":
                raise sqlite3.DatabaseError(check)
            connection.executescript(_TABLES)
            if connection.execute("SELECT id FROM epoch").fetchall() != [(self._epoch,)]:
                self._begin_epoch(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _begin_epoch(self, connection: sqlite3.Connection) -> None:
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM buckets")
            connection.execute("DELETE FROM holds")
            connection.execute("DELETE FROM epoch")
            connection.execute("INSERT INTO epoch VALUES (?)", (self._epoch,))

    def _delete(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)


def _to_row(hold: OpenReservation) -> tuple[str | int, ...]:
    taken = hold.amounts
    amounts = (taken.requests, taken.tokens, taken.images, taken.slots)
    return (hold.id, hold.session, hold.key_id, *amounts, hold.tick)


def _read_boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return uuid.uuid4().hex  # not known to be the same: begin empty
