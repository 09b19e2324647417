"""Requests through the handles; how leases are used is in test_leases.py."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors

from api.errors import EngineError, ReplicaLostError
from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from api.ports.images import Image, ImageRequest, Images
from api.ports.stream import ImageProgress, Usage
from api.ports.text import Completion, Generation, Sampling
from deployments.ingress.handles import DiffusionHandle, EmbeddingHandle, LlmHandle
from deployments.ingress.leases import LeasePool
from deployments.transport.request_channel import RequestReceiver, RequestSender
from deployments.transport.token_channel import Receiver, Sender
from deployments.transport.token_messages import StreamEnd
from tests.helpers.handles import FakeHandle, FakeMethod

GENERATION = Generation("r", ("Once",), Sampling())
COMPLETION = Completion((), Usage(1, 2))
EMBEDDING_REQUEST = EmbeddingRequest("r", ("a",))
SCORE_REQUEST = ScoreRequest("r", ("a",), ("b",), ("query", "documents"))
SCORES = Scores((0.5,), Usage(1))
EMBEDDINGS = Embeddings(b"\0\0\0\0", 1, Usage(1))
IMAGE_REQUEST = ImageRequest("r", "a dot", None, 1, None, None, None, None, None)
IMAGES = Images((Image(b"", 0),), 8, 8, Usage(1))


Ask = Callable[[LeasePool], Awaitable[Any]]
UNARY = pytest.mark.parametrize(
    ("ask", "method", "result"),
    [
        (lambda pool: LlmHandle(pool).complete(GENERATION), "complete", COMPLETION),
        (lambda pool: EmbeddingHandle(pool).embed(EMBEDDING_REQUEST), "embed", EMBEDDINGS),
        (lambda pool: EmbeddingHandle(pool).score(SCORE_REQUEST), "score", SCORES),
        (lambda pool: DiffusionHandle(pool).generate(IMAGE_REQUEST), "generate", IMAGES),
    ],
    ids=["llm", "embedding", "score", "diffusion"],
)


class Ingress:
    """A pool of leases of a fake handle."""

    def __init__(self, receiver: Receiver, error: Exception | None = None) -> None:
        self.lease = FakeMethod(error)
        self.sender = RequestSender()
        self.pool = LeasePool(lambda: FakeHandle(self.lease), receiver, self.sender)

    async def begin(self, ask: Ask) -> "asyncio.Future[Any]":
        """Send a request, and wait until its call has arrived."""
        asking = asyncio.ensure_future(ask(self.pool))
        await self.lease.called.wait()
        return asking

    def shut_down(self) -> None:
        self.pool.shut_down()
        self.sender.shut_down()


@pytest.fixture
async def ingress(receiver: Receiver) -> AsyncIterator[Ingress]:
    ingress = Ingress(receiver)
    yield ingress
    ingress.shut_down()


@UNARY
async def test_result_of_the_call_is_returned(
    ask: Ask, method: str, result: Any, ingress: Ingress
) -> None:
    asking = await ingress.begin(ask)

    ingress.lease.responses[0].result.set_result(StreamEnd(result, 0))

    assert await asking is result
    assert [call[1] for call in ingress.lease.calls] == [method]
    assert not ingress.lease.responses[0].is_cancelled


@UNARY
async def test_result_over_the_channel_is_returned(
    ask: Ask, method: str, result: Any, ingress: Ingress, sender: Sender
) -> None:
    asking = await ingress.begin(ask)
    requests = RequestReceiver(lambda: "127.0.0.1")
    reply_to = ingress.lease.calls[0][3]

    inbox = requests.find_address(reply_to)
    assert inbox is not None
    sender.open(reply_to).send_end(msgspec.msgpack.encode(result), inbox)

    assert await asking == result
    assert len(ingress.pool) == 1
    requests.shut_down()


@UNARY
async def test_cancellation_cancels_the_call(
    ask: Ask, method: str, result: Any, ingress: Ingress
) -> None:
    asking = await ingress.begin(ask)

    asking.cancel()
    await asyncio.wait({asking})

    assert asking.cancelled()
    assert ingress.lease.responses[0].is_cancelled


@UNARY
async def test_error_of_the_call_is_translated(
    ask: Ask, method: str, result: Any, ingress: Ingress
) -> None:
    asking = await ingress.begin(ask)

    ingress.lease.responses[0].result.set_exception(ray_errors.RayActorError())

    with pytest.raises(ReplicaLostError):
        await asking


@UNARY
async def test_error_of_calling_is_translated(
    ask: Ask, method: str, result: Any, receiver: Receiver
) -> None:
    ingress = Ingress(receiver, serve_errors.RayServeException("no router"))

    with pytest.raises(EngineError):
        await ask(ingress.pool)


@pytest.mark.parametrize("adapter", ["pirate", None])
async def test_replicas_that_have_loaded_the_adapter_are_preferred(
    ingress: Ingress, adapter: str | None
) -> None:
    llm = LlmHandle(ingress.pool)

    stream = llm.stream(replace(GENERATION, adapter=adapter))
    await ingress.lease.called.wait()

    assert ingress.lease.preferred == adapter
    await stream.aclose()


async def test_stream_of_images_yields_their_progress(ingress: Ingress, sender: Sender) -> None:
    stream = DiffusionHandle(ingress.pool).stream(IMAGE_REQUEST)
    await ingress.lease.called.wait()
    writer = sender.open(ingress.lease.calls[0][3])
    progress = [ImageProgress(1, 2), ImageProgress(2, 2, b"png")]

    writer.send_unbatched(progress[0])
    writer.send_unbatched(progress[1])
    ingress.lease.responses[0].result.set_result(StreamEnd(IMAGES, 2))

    received: list[ImageProgress] = []
    assert await stream.forward(received.extend) is IMAGES
    assert received == progress
    await stream.aclose()
