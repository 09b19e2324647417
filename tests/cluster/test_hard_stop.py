"""What HAProxy's `hard-stop-after` does to streams that are older than the last reload."""

import asyncio
import copy
from pathlib import Path

import pytest

from scripts.service.environment import haproxy_binary
from tests.cluster.conftest import APPLICATIONS, application
from tests.helpers.service import running, wait_until
from tests.helpers.streams import read_all

pytestmark = pytest.mark.cluster

HAPROXY = Path(__file__).parents[1] / "helpers" / "haproxy_with_hard_stop"
STREAM_S = 30
TOKENS_PER_S = 10


@pytest.mark.parametrize(("hard_stop_s", "is_complete"), [(15, False), (60, True)])
async def test_stream_survives_a_reload_if_the_hard_stop_is_later_than_its_end(
    hard_stop_s: int, is_complete: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REAL_HAPROXY", haproxy_binary())
    monkeypatch.setenv("HARD_STOP", str(hard_stop_s))
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(HAPROXY))
    ingress = copy.deepcopy(APPLICATIONS[0])
    echo = application("echo", "llm", "LLM", engine={"tokens_per_s": TOKENS_PER_S})
    tokens = STREAM_S * TOKENS_PER_S
    with running({"applications": [ingress, echo]}, tmp_path) as service:
        streams = asyncio.create_task(read_all(service, [{"max_tokens": tokens}] * 3))
        await asyncio.sleep(1)
        ingress["deployments"][0]["num_replicas"] = 2
        await asyncio.to_thread(service.deploy, [ingress, echo])
        await asyncio.to_thread(wait_until, lambda: len(service.replica_pids()["ingress"]) == 2, 60)
        results = await streams

    assert [result.is_complete(tokens) for result in results] == [is_complete] * 3
