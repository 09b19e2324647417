"""A PostgreSQL server for tests, in a folder of its own."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.benchmark.stacks import postgres
from scripts.benchmark.stacks.postgres import make_database as make_database


@contextmanager
def running_postgres() -> Iterator[int]:
    """Run a server that trusts every local client as user `postgres`; yields its port."""
    # Only root can enter pytest's own folders, and the server may run as another user.
    folder = Path(tempfile.mkdtemp(prefix="triptych-postgres-"))
    try:
        with postgres.running_postgres(folder, postgres.VOLATILE) as port:
            yield port
    except postgres.PostgresError as failure:
        pytest.fail(str(failure))
    finally:
        shutil.rmtree(folder)
