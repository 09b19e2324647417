"""Usage records on disk until the ledger has them: what was answered is billed, whoever is killed.

Each replica appends to a file of its own before it answers, and empties it when the ledger has all
of it. A file whose replica is gone is read by another one of the same home. The kernel keeps what a
killed process has written; only a machine that loses power can lose the last records.
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

logger = logging.getLogger(__name__)

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(UsageRecord)


class Spool:
    """One replica's file. A full disk costs records their safety, and no request anything."""

    def __init__(self, folder: Path) -> None:
        """Make a file in `folder`, which is made if need be.

        Raises:
            OSError: it cannot be.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = folder / f"{uuid.uuid4().hex}.jsonl"
        draft = self._path.with_suffix(".new")  # nobody looks at it before it is locked
        self._file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # for as long as this process lives
        draft.rename(self._path)
        self._kept: set[str] = set()

    def keep(self, record: UsageRecord) -> None:
        """Write one record; a microsecond's work, and it never raises."""
        self._kept.add(record.id)
        # On a line of its own, also after one that a full disk has cut off.
        line = b"\n" + _encoder.encode(record) + b"\n"
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            logger.error("a usage record could not be kept: %s", error.strerror)

    def forget(self, ids: Iterable[str]) -> None:
        """The ledger has these; once it has all, the file is emptied."""
        if not self._kept:
            return
        self._kept.difference_update(ids)
        if not self._kept:
            os.ftruncate(self._file, 0)

    def shut_down(self) -> None:
        """Take the file away if nothing is in it; else another replica finds it."""
        if not self._kept:
            self._path.unlink(missing_ok=True)
        os.close(self._file)


class OrphanedSpool:
    """The file of a replica that is gone; nobody else reads it until it is closed."""

    def __init__(self, path: Path, file: int) -> None:
        """Read `file`, which is locked."""
        self._path = path
        self._file = file
        self.records = list(_read(path))

    def remove(self) -> None:
        """The ledger has all of it."""
        self._path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave it to the next one that looks."""
        os.close(self._file)


def find_orphaned_spools(folder: Path) -> Iterator[OrphanedSpool]:
    """The files of replicas that are gone."""
    for path in folder.glob("*.jsonl"):
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            continue  # somebody else has just done with it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)  # its replica lives
            continue
        if os.fstat(file).st_nlink:
            yield OrphanedSpool(path, file)
        else:
            os.close(file)


def _read(path: Path) -> Iterator[UsageRecord]:
    for line in filter(None, path.read_bytes().splitlines()):
        try:
            yield _decoder.decode(line)
        except msgspec.MsgspecError:  # cut off in the middle of a write
            logger.warning("a usage record that was cut off is left out")
