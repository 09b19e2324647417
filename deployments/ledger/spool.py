"""Usage records on disk until the ledger has recorded them, so a killed replica loses none.

Each replica appends to its own file before it answers, and empties the file when all its records
are recorded. Another replica of the same home replays the file of a replica that has died. The
kernel keeps what a killed process has written; only a power failure can lose the last records.
"""

import errno
import fcntl
import logging
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from deployments.ledger.records import UsageRecord
from deployments.observability.outage import Outage

logger = logging.getLogger(__name__)

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(UsageRecord)


class Spool:
    """The file of one replica; locked while the replica lives."""

    def __init__(self, folder: Path) -> None:
        """Create a file in `folder`, and the folder if it is missing.

        Raises:
            OSError: the file cannot be created.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / f"{uuid.uuid4().hex}.jsonl"
        draft = self._path.with_suffix(".new")  # not found by other replicas until it is locked
        self._file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        draft.rename(self._path)
        self._unrecorded: set[str] = set()
        self._outage = Outage(logger)

    def append(self, record: UsageRecord) -> None:
        """Write one record (about 1 µs). A full disk is logged once and not raised.

        The record is still sent to the ledger: only if this replica is killed before the ledger
        has it, it is lost.
        """
        self._unrecorded.add(record.id)
        # The newline before the record ends a line that a full disk has cut off.
        line = b"\n" + _encoder.encode(record) + b"\n"
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._outage.begin(
                "usage records cannot be spooled, and are lost if this replica is killed before "
                "the ledger has them: %s",
                error.strerror,
            )
        else:
            self._outage.end("usage records are spooled again")

    def mark_recorded(self, ids: Iterable[str]) -> None:
        """Note which records the ledger has; the file is emptied once it has all of them."""
        if not self._unrecorded:
            return
        self._unrecorded.difference_update(ids)
        if not self._unrecorded:
            os.ftruncate(self._file, 0)

    def shut_down(self) -> None:
        """Close the file, and delete it if all records are recorded."""
        if not self._unrecorded:
            self._path.unlink(missing_ok=True)
        os.close(self._file)


class OrphanedSpool:
    """The file of a replica that has died; locked against other readers until it is closed."""

    def __init__(self, path: Path, file: int) -> None:
        """Read the records.

        Args:
            path: the file to read.
            file: its descriptor, which holds the lock; owned by this object from now on.
        """
        self._path = path
        self._file = file
        try:
            self.records, self._damaged = _read(path)
        except BaseException:
            os.close(file)  # a lock that is kept makes the file look alive to other replicas
            raise

    def remove(self) -> None:
        """Delete the file, once the ledger has all its records; set aside what was unreadable."""
        if self._damaged:
            self._set_damaged_aside()
        self._path.unlink(missing_ok=True)
        self.close()

    def _set_damaged_aside(self) -> None:
        aside = self._path.with_suffix(".damaged")
        try:
            aside.touch(mode=0o600)
            aside.write_bytes(b"\n".join(self._damaged) + b"\n")
        except OSError as error:
            logger.error("damaged usage records cannot be set aside: %s", error.strerror)
        else:
            logger.warning(
                "%d damaged usage records are in %s, and are not counted", len(self._damaged), aside
            )

    def close(self) -> None:
        """Release the lock and leave the file to another reader."""
        os.close(self._file)


def find_orphaned_spools(folder: Path) -> Iterator[OrphanedSpool]:
    """Lock and read the files of replicas that have died; skip those that cannot be read."""
    for path in folder.glob("*.jsonl"):
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            continue  # another replica has just removed it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)  # its replica lives
            continue
        if not os.fstat(file).st_nlink:
            os.close(file)  # removed while it was being locked
            continue
        try:
            spool = OrphanedSpool(path, file)
        except OSError as error:
            logger.error("a spool cannot be read: %s", error.strerror)
            continue
        yield spool


def _read(path: Path) -> tuple[list[UsageRecord], list[bytes]]:
    """Return the records, and the lines that are none: cut off in a write, or damaged later."""
    records, damaged = [], []
    for line in filter(None, path.read_bytes().split(b"\n")):
        try:
            records.append(_decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            damaged.append(line)
    return records, damaged
