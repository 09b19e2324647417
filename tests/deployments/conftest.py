"""Empty databases of both kinds; each test has its own."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.postgres import make_database, running_postgres

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres_port() -> Iterator[int]:
    """The port of a running PostgreSQL."""
    with running_postgres() as port:
        yield port


@pytest.fixture
def postgresql_url(postgres_port: int) -> str:
    """The URL of a PostgreSQL database without tables."""
    return make_database(postgres_port, f"test_{next(_numbers)}")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables; each test runs with SQLite and PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'triptych.db'}"
    url: str = request.getfixturevalue("postgresql_url")
    return url
