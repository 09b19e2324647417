from collections.abc import Iterator

import pytest

from tests.helpers.redis_server import running_redis


@pytest.fixture(scope="session")
def redis_port() -> Iterator[int]:
    """Where a Redis of ours listens that keeps nothing."""
    with running_redis() as port:
        yield port
