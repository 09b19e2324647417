import asyncio

import pytest

from api.ports.images import ImageRequest
from api.ports.stream import ImageProgress
from deployments.autoscaling import IMAGE_STEPS
from deployments.config.diffusion import DiffusionArgs
from deployments.ingress.handles import DiffusionHandle
from deployments.models.diffusion import DiffusionReplica
from deployments.serve_look import to_key
from deployments.transport.token_channel import Receiver
from tests.helpers.cluster_store import DictStore
from tests.helpers.replicas import leasing, open_counts, running_replica
from tests.helpers.token_channel import until

ARGS = DiffusionArgs(id="m", source="fake:")
REQUEST = ImageRequest("r", "a dot", n=2, num_inference_steps=3, width_px=16, height_px=16)

pytestmark = pytest.mark.usefixtures("without_ledger")


async def test_images_are_generated() -> None:
    async with running_replica(DiffusionReplica, ARGS) as replica:
        async with leasing(replica) as pool:
            images = await DiffusionHandle(pool).generate(REQUEST)
        replica.check_health()

        assert len(images.images) == 2
        assert open_counts(await replica.stats()) == {}


async def test_stream_sends_the_progress_of_every_step() -> None:
    async with running_replica(DiffusionReplica, ARGS) as replica, leasing(replica) as pool:
        stream = DiffusionHandle(pool).stream(REQUEST)
        progress: list[ImageProgress] = []
        images = await stream.forward(progress.extend)
        await stream.aclose()

        assert progress == [ImageProgress(step, 3) for step in (1, 2, 3)]
        assert len(images.images) == 2


async def test_pending_steps_are_the_autoscaling_metric() -> None:
    receiver = Receiver()
    async with running_replica(DiffusionReplica, ARGS) as replica:
        reader = receiver.open()
        lease = asyncio.ensure_future(
            replica.lease(b"1" * 16, "generate", REQUEST, reader.reply_to)
        )
        await asyncio.sleep(0)
        during = await replica.record_autoscaling_stats()
        await until(lambda: reader.end is not None)

        assert during == {IMAGE_STEPS: 6}
        assert await replica.record_autoscaling_stats() == {IMAGE_STEPS: 0}
        lease.cancel()
        await asyncio.wait({lease})
    receiver.shut_down()


async def test_capabilities_of_the_engine_are_known_before_it_serves(
    cluster_store: DictStore,
) -> None:
    async with running_replica(DiffusionReplica, ARGS):
        assert b"size" in cluster_store.values[to_key(ARGS)]


async def test_deleted_replica_leaves_no_task() -> None:
    before = asyncio.all_tasks()

    async with running_replica(DiffusionReplica, ARGS):
        during = asyncio.all_tasks()

    assert during > before
    assert asyncio.all_tasks() == before
