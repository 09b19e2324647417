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
def running_postgres(host: str = "127.0.0.1") -> Iterator[int]:
    """Run a server at an address of this machine; it trusts user `postgres`. Yields its port."""
    # Only root can enter pytest's own folders, and the server may run as another user.
    folder = Path(tempfile.mkdtemp(prefix="triptych-postgres-"))
    try:
        with postgres.running_postgres(folder, postgres.VOLATILE, host) as port:
            yield port
    except postgres.PostgresError as failure:
        pytest.fail(str(failure))
    finally:
        shutil.rmtree(folder)
