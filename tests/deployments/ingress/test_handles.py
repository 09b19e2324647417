import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors

from api.errors import (
    ApiError,
    ContextLengthExceededError,
    EngineError,
    ModelFailedError,
    OverloadedError,
    ReplicaLostError,
)
from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from api.ports.images import Image, ImageRequest, Images
from api.ports.stream import ImageProgress, TextDelta, Usage
from api.ports.text import Completion, Generation, Sampling
from deployments.ingress.handles import (
    ChannelStream,
    DiffusionHandle,
    EmbeddingHandle,
    LlmHandle,
    translate_ray_errors,
)
from deployments.transport.token_channel import Receiver, Sender, StreamEnd, StreamWriter
from tests.helpers.token_channel import TIMEOUT_S, collect

GENERATION = Generation("r", ("Once",), Sampling())
COMPLETION = Completion((), Usage(1, 2))
EMBEDDING_REQUEST = EmbeddingRequest("r", ("a",))
SCORE_REQUEST = ScoreRequest("r", ("a",), ("b",), ("query", "documents"))
SCORES = Scores((0.5,), Usage(1))
EMBEDDINGS = Embeddings(b"\0\0\0\0", 1, Usage(1))
IMAGE_REQUEST = ImageRequest("r", "a dot", None, 1, None, None, None, None, None)
IMAGES = Images((Image(b"", 0),), 8, 8, Usage(1))


class FakeResponse:
    """A `DeploymentResponse` that can be awaited and cancelled."""

    def __init__(self) -> None:
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.is_cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.shield(self.result).__await__()

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeMethod:
    """A handle's method: records its calls, whose results the test sets."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.responses: list[FakeResponse] = []
        self.called = asyncio.Event()
        self.preferred: str | None = None
        self._error = error

    def options(self, *, multiplexed_model_id: str) -> "FakeMethod":
        self.preferred = multiplexed_model_id
        return self

    def remote(self, *args: Any) -> FakeResponse:
        if self._error is not None:
            raise self._error
        self.calls.append(args)
        self.responses.append(FakeResponse())
        self.called.set()
        return self.responses[-1]


class FakeHandle:
    """A `DeploymentHandle` with the methods of all our replicas."""

    def __init__(self, error: Exception | None = None) -> None:
        self.complete = FakeMethod(error)
        self.stream = FakeMethod(error)
        self.embed = FakeMethod(error)
        self.score = FakeMethod(error)
        self.generate = FakeMethod(error)


class Streaming:
    """An open stream: the ingress's end, and the replica's."""

    def __init__(self, receiver: Receiver, sender: Sender) -> None:
        self._handle = FakeHandle()
        self._receiver = receiver
        self._sender = sender
        self.stream = LlmHandle(self._handle, receiver).stream(GENERATION)
        self._batches = aiter(self.stream)

    async def answer(self) -> tuple[FakeResponse, StreamWriter]:
        """Wait for the call in the replica, and open its writer."""
        await self._handle.stream.called.wait()
        ((_, reply_to),) = self._handle.stream.calls
        return self._handle.stream.responses[0], self._sender.open(reply_to)

    async def arrival(self) -> None:
        """Wait until all deltas sent so far have arrived: they come in order."""
        reader = self._receiver.open()
        self._sender.open(reader.reply_to).send(TextDelta(0, "after"))
        await collect(reader, 1)
        self._receiver.close(reader)

    @property
    def calls(self) -> list[tuple[Any, ...]]:
        return self._handle.stream.calls

    async def next(self) -> Sequence[TextDelta]:
        async with asyncio.timeout(TIMEOUT_S):
            return await anext(self._batches)

    async def rest(self) -> list[TextDelta]:
        async with asyncio.timeout(TIMEOUT_S):
            return [delta async for batch in self._batches for delta in batch]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver("127.0.0.1")
    yield receiver
    receiver.shut_down()


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    sender = Sender()
    yield sender
    sender.shut_down()


@pytest.fixture
async def streaming(receiver: Receiver, sender: Sender) -> AsyncIterator[Streaming]:
    streaming = Streaming(receiver, sender)
    yield streaming
    await streaming.stream.aclose()


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


async def test_stream_passes_the_generation_and_the_address_of_its_reader(
    streaming: Streaming,
) -> None:
    await streaming.answer()

    ((generation, reply_to),) = streaming.calls
    assert generation is GENERATION
    assert reply_to.address.startswith("tcp://127.0.0.1:")


async def test_deltas_are_yielded_as_they_arrive(streaming: Streaming) -> None:
    _, writer = await streaming.answer()

    writer.send(TextDelta(0, "a"))
    first = await streaming.next()
    writer.send(TextDelta(0, "b"))
    second = await streaming.next()

    assert (first, second) == ([TextDelta(0, "a")], [TextDelta(0, "b")])


async def test_waiting_deltas_are_yielded_together(streaming: Streaming) -> None:
    _, writer = await streaming.answer()

    writer.send(TextDelta(0, "a"))
    writer.send(TextDelta(0, "b"))
    writer.send(TextDelta(0, "c"))

    assert await streaming.next() == [TextDelta(0, "a"), TextDelta(0, "b"), TextDelta(0, "c")]


async def test_result_after_the_last_delta_ends_the_stream(streaming: Streaming) -> None:
    response, writer = await streaming.answer()
    writer.send(TextDelta(0, "a", "stop"))
    first = await streaming.next()

    response.result.set_result(StreamEnd(COMPLETION, 1))
    rest = await streaming.rest()

    assert (first, rest) == ([TextDelta(0, "a", "stop")], [])
    assert streaming.stream.completion is COMPLETION


async def test_result_before_the_last_delta_waits_for_it(streaming: Streaming) -> None:
    response, writer = await streaming.answer()
    reading = asyncio.create_task(streaming.rest())
    response.result.set_result(StreamEnd(COMPLETION, 3))
    await streaming.arrival()

    writer.send(TextDelta(0, "a"))
    await streaming.arrival()
    writer.send(TextDelta(0, "b"))
    writer.send(TextDelta(0, "c", "stop"))

    assert await reading == [TextDelta(0, "a"), TextDelta(0, "b"), TextDelta(0, "c", "stop")]
    assert streaming.stream.completion is COMPLETION


async def test_deltas_that_arrived_before_the_iteration_are_yielded(streaming: Streaming) -> None:
    response, writer = await streaming.answer()
    writer.send(TextDelta(0, "a"))
    writer.send(TextDelta(0, "b", "stop"))
    response.result.set_result(StreamEnd(COMPLETION, 2))
    await streaming.arrival()

    assert await streaming.rest() == [TextDelta(0, "a"), TextDelta(0, "b", "stop")]


async def test_stream_without_deltas_ends(streaming: Streaming) -> None:
    response, _ = await streaming.answer()

    response.result.set_result(StreamEnd(COMPLETION, 0))

    assert await streaming.rest() == []


async def test_failed_call_fails_the_stream(streaming: Streaming) -> None:
    response, writer = await streaming.answer()
    writer.send(TextDelta(0, "a"))
    first = await streaming.next()

    response.result.set_exception(ray_errors.RayActorError())

    with pytest.raises(ReplicaLostError):
        await streaming.rest()
    assert first == [TextDelta(0, "a")]


async def test_error_of_calling_fails_the_stream(receiver: Receiver) -> None:
    handle = FakeHandle(serve_errors.RayServeException("no router"))
    stream = LlmHandle(handle, receiver).stream(GENERATION)

    with pytest.raises(EngineError):
        await anext(aiter(stream))

    await stream.aclose()
    assert len(receiver) == 0


async def test_missing_last_delta_fails_the_stream(receiver: Receiver, sender: Sender) -> None:
    method = FakeMethod()
    stream = ChannelStream[TextDelta, Completion](
        method, GENERATION, receiver, last_deltas_timeout_s=0.01
    )
    await method.called.wait()
    sender.open(method.calls[0][1]).send(TextDelta(0, "a"))

    method.responses[0].result.set_result(StreamEnd(COMPLETION, 2))

    with pytest.raises(EngineError, match="lost on its way"):
        _ = [batch async for batch in stream]
    await stream.aclose()


async def test_gap_in_the_numbers_fails_the_stream(streaming: Streaming) -> None:
    _, writer = await streaming.answer()
    writer.send(TextDelta(0, "a"))
    first = await streaming.next()
    writer.sent += 1

    writer.send(TextDelta(0, "c"))

    assert first == [TextDelta(0, "a")]
    with pytest.raises(EngineError, match="lost on its way"):
        await streaming.rest()


async def test_deltas_that_arrived_before_a_failure_are_yielded_first(streaming: Streaming) -> None:
    response, writer = await streaming.answer()
    writer.send(TextDelta(0, "a"))
    await streaming.arrival()
    response.result.set_exception(ray_errors.RayActorError())
    await streaming.arrival()

    assert await streaming.next() == [TextDelta(0, "a")]
    with pytest.raises(ReplicaLostError):
        await streaming.rest()


async def test_completion_is_not_available_before_the_end(streaming: Streaming) -> None:
    with pytest.raises(AssertionError, match="not ended"):
        _ = streaming.stream.completion


async def test_closing_cancels_the_call_and_closes_the_reader(
    streaming: Streaming, receiver: Receiver
) -> None:
    response, _ = await streaming.answer()

    await streaming.stream.aclose()

    assert response.is_cancelled
    assert len(receiver) == 0


async def test_closing_at_once_leaves_no_call_running(receiver: Receiver) -> None:
    handle = FakeHandle()
    stream = LlmHandle(handle, receiver).stream(GENERATION)

    await stream.aclose()
    await asyncio.sleep(0)

    assert [each for each in handle.stream.responses if not each.is_cancelled] == []
    assert len(receiver) == 0


async def test_closing_after_the_end_cancels_nothing(
    streaming: Streaming, receiver: Receiver
) -> None:
    response, _ = await streaming.answer()
    response.result.set_result(StreamEnd(COMPLETION, 0))
    await streaming.rest()

    await streaming.stream.aclose()

    assert not response.is_cancelled
    assert len(receiver) == 0


async def test_closing_twice_is_safe(streaming: Streaming) -> None:
    await streaming.answer()

    await streaming.stream.aclose()
    await streaming.stream.aclose()


async def test_closing_after_an_unseen_failure_logs_nothing(
    streaming: Streaming, caplog: pytest.LogCaptureFixture
) -> None:
    response, _ = await streaming.answer()
    response.result.set_exception(ray_errors.RayActorError())
    await asyncio.sleep(0)

    await streaming.stream.aclose()

    assert caplog.records == []


def translated(error: BaseException) -> ApiError:
    with pytest.raises(ApiError) as caught, translate_ray_errors():
        raise error
    return caught.value


def in_replica(cause: BaseException) -> ray_errors.RayTaskError:
    """The error that a caller gets when a replica raises `cause`."""
    remote = ray_errors.RayTaskError("f", "Traceback: /srv/secret.py", cause, "p", 1, "127.0.0.1")
    return remote.as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (serve_errors.BackPressureError(5, 5), OverloadedError),
        (serve_errors.DeploymentUnavailableError(None), ModelFailedError),
        (serve_errors.ReplicaUnavailableError("r"), ReplicaLostError),
        (serve_errors.RequestCancelledError("r"), EngineError),
        (ray_errors.RayActorError(), ReplicaLostError),
        (ray_errors.ActorDiedError(), ReplicaLostError),
        (ray_errors.ActorUnavailableError("gone", None), ReplicaLostError),
        (ray_errors.NodeDiedError("gone"), ReplicaLostError),
        (ray_errors.WorkerCrashedError(), ReplicaLostError),
        (ray_errors.OwnerDiedError("00", None, ""), ReplicaLostError),
        (ray_errors.OutOfMemoryError("big"), EngineError),
        (ray_errors.TaskCancelledError(), EngineError),
        (in_replica(ValueError("/srv/secret")), EngineError),
        (ValueError("/srv/secret"), EngineError),  # as it arrives over gRPC
        (ContextLengthExceededError("too long"), ContextLengthExceededError),  # likewise
        (in_replica(serve_errors.BackPressureError(5, 5)), OverloadedError),
        (
            in_replica(ContextLengthExceededError("Too long.", param="input")),
            ContextLengthExceededError,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_error_of_ray_is_translated(error: Exception, ours: type[ApiError]) -> None:
    assert type(translated(error)) is ours


def test_api_error_of_a_replica_arrives_unchanged() -> None:
    error = translated(in_replica(ContextLengthExceededError("Too long.", param="input[3]")))

    assert type(error) is ContextLengthExceededError
    assert (error.message, error.param) == ("Too long.", "input[3]")


def test_foreign_error_does_not_show_its_text() -> None:
    error = translated(in_replica(ValueError("/srv/secret")))

    assert "secret" not in str(error.body())


def classes_of(module: Any) -> list[type[Exception]]:
    return [
        cls for _, cls in inspect.getmembers(module, inspect.isclass) if issubclass(cls, Exception)
    ]


def blank(cls: type[Exception]) -> Exception:
    """An instance made without the constructor, because each has other parameters."""
    error = cls.__new__(cls)
    error.cause = None  # type: ignore[attr-defined]  # what only RayTaskError has
    return error


@pytest.mark.parametrize(
    "cls", [*classes_of(ray_errors), *classes_of(serve_errors)], ids=lambda cls: cls.__name__
)
def test_every_error_class_of_ray_is_translated(cls: type[Exception]) -> None:
    assert isinstance(translated(blank(cls)), ApiError)


def test_cancellation_is_not_translated() -> None:
    with pytest.raises(asyncio.CancelledError), translate_ray_errors():
        raise asyncio.CancelledError
