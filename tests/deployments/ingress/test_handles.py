"""Calls through the handles; streams are in test_channel_stream.py."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors

from api.errors import EngineError, ReplicaLostError
from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from api.ports.images import Image, ImageRequest, Images
from api.ports.stream import ImageProgress, Usage
from api.ports.text import Completion, Generation, Sampling
from deployments.ingress.handles import DiffusionHandle, EmbeddingHandle, LlmHandle
from deployments.transport.token_channel import Receiver, Sender, StreamEnd
from tests.helpers.handles import FakeHandle, FakeMethod

GENERATION = Generation("r", ("Once",), Sampling())
COMPLETION = Completion((), Usage(1, 2))
EMBEDDING_REQUEST = EmbeddingRequest("r", ("a",))
SCORE_REQUEST = ScoreRequest("r", ("a",), ("b",), ("query", "documents"))
SCORES = Scores((0.5,), Usage(1))
EMBEDDINGS = Embeddings(b"\0\0\0\0", 1, Usage(1))
IMAGE_REQUEST = ImageRequest("r", "a dot", None, 1, None, None, None, None, None)
IMAGES = Images((Image(b"", 0),), 8, 8, Usage(1))


Ask = Callable[[FakeHandle, Receiver], Awaitable[Any]]
UNARY = pytest.mark.parametrize(
    ("ask", "method", "result"),
    [
        (lambda h, r: LlmHandle(h, r).complete(GENERATION), "complete", COMPLETION),
        (lambda h, r: EmbeddingHandle(h).embed(EMBEDDING_REQUEST), "embed", EMBEDDINGS),
        (lambda h, r: EmbeddingHandle(h).score(SCORE_REQUEST), "score", SCORES),
        (lambda h, r: DiffusionHandle(h, r).generate(IMAGE_REQUEST), "generate", IMAGES),
    ],
    ids=["llm", "embedding", "score", "diffusion"],
)


@UNARY
async def test_result_of_the_call_is_returned(
    ask: Ask, method: str, result: Any, receiver: Receiver
) -> None:
    handle = FakeHandle()
    asking = asyncio.ensure_future(ask(handle, receiver))
    called: FakeMethod = getattr(handle, method)
    await called.called.wait()

    called.responses[0].result.set_result(result)

    assert await asking is result
    assert len(called.calls) == 1
    assert not called.responses[0].is_cancelled


@UNARY
async def test_cancellation_cancels_the_call(
    ask: Ask, method: str, result: Any, receiver: Receiver
) -> None:
    handle = FakeHandle()
    asking = asyncio.ensure_future(ask(handle, receiver))
    called: FakeMethod = getattr(handle, method)
    await called.called.wait()

    asking.cancel()
    await asyncio.wait({asking})

    assert asking.cancelled()
    assert called.responses[0].is_cancelled


@UNARY
async def test_error_of_the_call_is_translated(
    ask: Ask, method: str, result: Any, receiver: Receiver
) -> None:
    handle = FakeHandle()
    asking = asyncio.ensure_future(ask(handle, receiver))
    called: FakeMethod = getattr(handle, method)
    await called.called.wait()

    called.responses[0].result.set_exception(ray_errors.RayActorError())

    with pytest.raises(ReplicaLostError):
        await asking


@UNARY
async def test_error_of_calling_is_translated(
    ask: Ask, method: str, result: Any, receiver: Receiver
) -> None:
    handle = FakeHandle(serve_errors.RayServeException("no router"))

    with pytest.raises(EngineError):
        await ask(handle, receiver)


@pytest.mark.parametrize("adapter", ["pirate", None])
async def test_replicas_that_have_loaded_the_adapter_are_preferred(
    receiver: Receiver, adapter: str | None
) -> None:
    handle = FakeHandle()
    llm = LlmHandle(handle, receiver)
    generation = replace(GENERATION, adapter=adapter)

    stream = llm.stream(generation)
    completing = asyncio.ensure_future(llm.complete(generation))
    await handle.complete.called.wait()

    assert (handle.stream.preferred, handle.complete.preferred) == (adapter, adapter)
    completing.cancel()
    await asyncio.wait({completing})
    await stream.aclose()


async def test_stream_of_images_yields_their_progress(receiver: Receiver, sender: Sender) -> None:
    handle = FakeHandle()
    stream = DiffusionHandle(handle, receiver).stream(IMAGE_REQUEST)
    await handle.stream.called.wait()
    writer = sender.open(handle.stream.calls[0][1])
    progress = [ImageProgress(1, 2), ImageProgress(2, 2, b"png")]

    writer.send_unbatched(progress[0])
    writer.send_unbatched(progress[1])
    handle.stream.responses[0].result.set_result(StreamEnd(IMAGES, 2))

    assert [each async for batch in stream for each in batch] == progress
    assert stream.completion is IMAGES
    await stream.aclose()
