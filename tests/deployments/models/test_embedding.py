import asyncio

import pytest

from api.ports.embeddings import EmbeddingRequest, ScoreRequest
from deployments.config.embedding import EmbeddingArgs
from deployments.ingress.handles import EmbeddingHandle
from deployments.models.embedding import EmbeddingReplica
from deployments.serve_look import to_key
from tests.helpers.cluster_store import DictStore
from tests.helpers.replicas import leasing, open_counts, running_replica

ARGS = EmbeddingArgs(id="m", source="fake:")

pytestmark = pytest.mark.usefixtures("without_ledger")


async def test_inputs_are_embedded() -> None:
    async with running_replica(EmbeddingReplica, ARGS) as replica:
        async with leasing(replica) as pool:
            embeddings = await EmbeddingHandle(pool).embed(EmbeddingRequest("r", ("a", "b")))

        assert len(embeddings.vectors) == 2 * embeddings.dimensions * 4  # float32
        assert open_counts(await replica.stats()) == {}


async def test_pairs_are_scored() -> None:
    request = ScoreRequest("r", ("a", "a"), ("b", "c"), ("query", "documents"))
    async with running_replica(EmbeddingReplica, ARGS) as replica, leasing(replica) as pool:
        assert len((await EmbeddingHandle(pool).score(request)).scores) == 2


async def test_capabilities_of_the_engine_are_known_before_it_serves(
    cluster_store: DictStore,
) -> None:
    async with running_replica(EmbeddingReplica, ARGS) as replica:
        await replica.check_health()

        assert b"dimensions" in cluster_store.values[to_key(ARGS)]


async def test_deleted_replica_leaves_no_task() -> None:
    before = asyncio.all_tasks()

    async with running_replica(EmbeddingReplica, ARGS):
        during = asyncio.all_tasks()

    assert during > before
    assert asyncio.all_tasks() == before
