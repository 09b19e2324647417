from collections.abc import Iterator

import pytest

from tests.helpers.redis_server import running_redis


@pytest.fixture(scope="session")
def redis_port() -> Iterator[int]:
    """The port of an empty Redis that stores nothing on disk."""
    with running_redis() as port:
        yield port
