"""A service that is stopped before its streams end.

It is the one that the modules before use. Those after, by their names, have their own.
"""

import asyncio

import psutil
import pytest

from tests.helpers.service import Service
from tests.helpers.streams import read_all

pytestmark = pytest.mark.cluster


async def test_streams_that_outlast_the_drain_end_with_an_error_and_every_process_ends(
    service: Service,
) -> None:
    """Streams that were cut short do not look complete."""
    processes = service.processes()
    reading = asyncio.create_task(read_all(service, [{"max_tokens": 2000}] * 20))
    await asyncio.sleep(3)
    left = await asyncio.to_thread(service.stop, 24)
    results = await reading

    assert all(result.texts for result in results)
    assert [result.errors for result in results] == [["service_stopping"]] * 20
    assert not any(result.is_done or result.is_cut for result in results)
    assert len(processes) > 5
    assert left == []
    assert not any(psutil.pid_exists(process.pid) for process in processes)
    assert service.process.returncode == 0
