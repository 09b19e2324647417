"""What cuts streams: HAProxy's `hard-stop-after`, and a second signal. Both on one service.

That streams survive a reload if `hard-stop-after` is later than their end, `test_changes.py` shows
with the setting of the service.
"""

import asyncio
import copy
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.service.environment import haproxy_binary
from tests.cluster.conftest import APPLICATIONS
from tests.helpers.service import Service, running, wait_until
from tests.helpers.streams import read_all

pytestmark = pytest.mark.cluster

HAPROXY = Path(__file__).parents[1] / "helpers" / "haproxy_with_hard_stop"
HARD_STOP_S = 5
ENDLESS = {"max_tokens": 2000}
"""A hundred seconds."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An ingress and `echo`; HAProxy cuts older streams soon after a reload."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("REAL_HAPROXY", haproxy_binary())
        environment.setenv("HARD_STOP", str(HARD_STOP_S))
        environment.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(HAPROXY))
        config = {"applications": APPLICATIONS[:2]}
        with running(config, tmp_path_factory.mktemp("home")) as service:
            yield service


async def test_hard_stop_after_a_reload_cuts_the_streams_that_are_older(service: Service) -> None:
    ingress, echo = copy.deepcopy(APPLICATIONS[:2])
    streams = asyncio.create_task(read_all(service, [ENDLESS] * 3))
    await asyncio.sleep(1)
    ingress["deployments"][0]["num_replicas"] = 2
    await asyncio.to_thread(service.deploy, [ingress, echo])
    results = await streams

    assert [result.is_cut for result in results] == [True] * 3


async def test_second_signal_ends_the_service_at_once(service: Service) -> None:
    """The last test of this module: it ends the service."""
    reading = asyncio.create_task(read_all(service, [ENDLESS] * 5))
    await asyncio.sleep(2)
    service.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "they have 30 s" in service.output.read_text(), 5)
    left = await asyncio.to_thread(service.stop, 20)
    results = await reading

    assert not any(result.is_done for result in results)
    assert left == []
