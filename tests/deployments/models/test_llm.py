import asyncio
from pathlib import Path

import pytest

from api.errors import EngineError, ModelNotFoundError, OverloadedError
from api.ports.stream import TextDelta
from api.ports.text import Generation, Sampling
from deployments.config.llm import LlmArgs
from deployments.ingress.handles import LlmHandle
from deployments.models.llm import LlmReplica
from deployments.transport.token_channel import Receiver
from tests.helpers.replicas import leasing, open_counts, running_replica
from tests.helpers.token_channel import TIMEOUT_S, UNMERGED, collect, until

ARGS = LlmArgs(id="m", source="fake:", engine={"tokens_per_s": 1000})
GENERATION = Generation("r", ("a b",), Sampling(max_tokens=4))
ENDLESS = Generation("r", ("a b",), Sampling(max_tokens=1_000_000))

pytestmark = pytest.mark.usefixtures("without_ledger")


async def test_completion_holds_the_text() -> None:
    async with running_replica(LlmReplica, ARGS) as replica:
        async with leasing(replica) as pool:
            completion = await LlmHandle(pool).complete(GENERATION)

        assert completion.choices[0].text.split() == ["a", "b", "a", "b"]
        assert open_counts(await replica.stats()) == {}


async def test_stream_sends_all_deltas_and_then_the_completion() -> None:
    async with running_replica(LlmReplica, ARGS) as replica:
        async with leasing(replica) as pool:
            stream = LlmHandle(pool).stream(GENERATION)
            deltas: list[TextDelta] = []
            completion = await stream.forward(deltas.extend)
            await stream.aclose()
        stats = await replica.stats()

    assert "".join(delta.text for delta in deltas).split() == ["a", "b", "a", "b"]
    assert completion.usage.completion_tokens == 4
    assert (open_counts(stats), stats["sockets"]) == ({}, 1)


async def test_cancelled_stream_frees_the_engine() -> None:
    async with running_replica(LlmReplica, ARGS) as replica, leasing(replica) as pool:
        stream = LlmHandle(pool).stream(ENDLESS)
        has_begun = asyncio.Event()
        reading = asyncio.ensure_future(stream.forward(lambda _: has_begun.set()))
        await asyncio.wait_for(has_begun.wait(), TIMEOUT_S)
        during = open_counts(await replica.stats())

        reading.cancel()
        await stream.aclose()
        await until(lambda: replica._engine.unfinished_requests == 0)

        assert during == {"requests": 1, "tokens": 258, "streams": 1, "busy": 1}
        assert open_counts(await replica.stats()) == {}


async def test_lost_receiver_frees_the_engine() -> None:
    async with running_replica(LlmReplica, ARGS) as replica:
        lost = Receiver(settings=UNMERGED)
        reader = lost.open()
        calling = asyncio.ensure_future(
            replica.lease(b"1" * 16, "stream", ENDLESS, reader.reply_to)
        )
        await collect(reader, 1)

        lost.shut_down()
        await until(calling.done)

        assert "reader is gone" in str(calling.exception())
        assert open_counts(await replica.stats()) == {}


async def test_failed_engine_fails_the_call() -> None:
    args = LlmArgs(id="m", source="fake:", engine={"fail_after_tokens": 0})
    async with running_replica(LlmReplica, args) as replica, leasing(replica) as pool:
        with pytest.raises(EngineError):
            await LlmHandle(pool).complete(GENERATION)

        assert open_counts(await replica.stats()) == {}


async def test_deleted_replica_leaves_no_task() -> None:
    before = asyncio.all_tasks()

    async with running_replica(LlmReplica, ARGS):
        during = asyncio.all_tasks()

    assert during > before
    assert asyncio.all_tasks() == before


async def test_adapters_change_without_a_restart(tmp_path: Path) -> None:
    args = ARGS.model_copy(update={"adapters_dir": "/none"})
    async with running_replica(LlmReplica, args) as replica:
        await replica.reconfigure({"adapters": [{"id": "loud", "source": str(tmp_path)}]}, None)
        loaded = await replica._adapters.get("loud")
        await replica.reconfigure(None, None)
        with pytest.raises(ModelNotFoundError):
            await replica._adapters.get("loud")

    assert loaded == "loud"


async def test_queue_changes_without_a_restart() -> None:
    args = LlmArgs(id="m", source="fake:", engine={"tokens_per_s": 1000, "max_num_seqs": 1})
    async with running_replica(LlmReplica, args) as replica, leasing(replica) as pool:
        running = asyncio.ensure_future(LlmHandle(pool).complete(ENDLESS))
        await until(lambda: replica._engine.unfinished_requests == 1)

        await replica.reconfigure({"max_waiting": 0}, None)
        with pytest.raises(OverloadedError):
            await LlmHandle(pool).complete(GENERATION)
        running.cancel()
        await until(lambda: replica._engine.unfinished_requests == 0)
