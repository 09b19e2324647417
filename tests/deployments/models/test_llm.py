import asyncio
from collections.abc import AsyncIterator

import pytest

from api.errors import EngineError
from api.ports.text import Generation, Sampling
from deployments.config.llm import LlmArgs
from deployments.models.llm import LlmReplica
from deployments.transport.token_channel import Receiver
from tests.helpers.replicas import open_counts, running_replica
from tests.helpers.token_channel import UNMERGED, collect, until

ARGS = LlmArgs(id="m", source="fake:", engine={"tokens_per_s": 1000})
GENERATION = Generation("r", ("a b",), Sampling(max_tokens=4))
ENDLESS = Generation("r", ("a b",), Sampling(max_tokens=1_000_000))

pytestmark = pytest.mark.usefixtures("without_ledger")


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver(settings=UNMERGED)
    yield receiver
    receiver.shut_down()


async def test_completion_holds_the_text() -> None:
    async with running_replica(LlmReplica, ARGS) as replica:
        completion = await replica.complete(GENERATION)

        assert completion.choices[0].text.split() == ["a", "b", "a", "b"]
        assert open_counts(await replica.stats()) == {}


async def test_stream_sends_all_deltas_and_returns_their_number(receiver: Receiver) -> None:
    async with running_replica(LlmReplica, ARGS) as replica:
        reader = receiver.open()

        end = await replica.stream(GENERATION, reader.reply_to)
        deltas = await collect(reader, end.deltas_sent)
        stats = await replica.stats()

    assert "".join(delta.text for delta in deltas).split() == ["a", "b", "a", "b"]
    assert end.completion.usage.completion_tokens == 4
    assert (open_counts(stats), stats["sockets"]) == ({}, 1)


async def test_cancelled_stream_frees_the_engine(receiver: Receiver) -> None:
    async with running_replica(LlmReplica, ARGS) as replica:
        reader = receiver.open()
        streaming = asyncio.ensure_future(replica.stream(ENDLESS, reader.reply_to))
        await collect(reader, 1)
        during = open_counts(await replica.stats())

        streaming.cancel()
        await asyncio.wait({streaming})

        assert during == {"requests": 1, "streams": 1, "busy": 1}
        assert open_counts(await replica.stats()) == {}


async def test_lost_receiver_frees_the_engine(receiver: Receiver) -> None:
    async with running_replica(LlmReplica, ARGS) as replica:
        lost = Receiver(settings=UNMERGED)
        reader = lost.open()
        streaming = asyncio.ensure_future(replica.stream(ENDLESS, reader.reply_to))
        await collect(reader, 1)

        lost.shut_down()
        await until(streaming.done)

        assert "reader is gone" in str(streaming.exception())
        assert open_counts(await replica.stats()) == {}


async def test_failed_engine_fails_the_call() -> None:
    args = LlmArgs(id="m", source="fake:", engine={"fail_after_tokens": 0})
    async with running_replica(LlmReplica, args) as replica:
        with pytest.raises(EngineError):
            await replica.complete(GENERATION)

        assert open_counts(await replica.stats()) == {}


async def test_deleted_replica_leaves_no_task() -> None:
    before = asyncio.all_tasks()

    async with running_replica(LlmReplica, ARGS):
        during = asyncio.all_tasks()

    assert during > before
    assert asyncio.all_tasks() == before
