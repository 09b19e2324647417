import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
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
from api.ports.stream import Delta, Usage
from api.ports.text import Completion, Generation, Sampling
from deployments.ingress.handles import (
    DiffusionHandle,
    EmbeddingHandle,
    LlmHandle,
    translate_ray_errors,
)
from deployments.transport.token_channel import Receiver, Sender, StreamEnd, StreamWriter

PATIENCE_S = 5.0

GENERATION = Generation("r", ("Once",), Sampling())
COMPLETION = Completion((), Usage(1, 2))
EMBEDDING_REQUEST = EmbeddingRequest("r", ("a",))
SCORE_REQUEST = ScoreRequest("r", ("a",), ("b",), ("query", "documents"))
SCORES = Scores((0.5,), Usage(1))
EMBEDDINGS = Embeddings(b"\0\0\0\0", 1, Usage(1))
IMAGE_REQUEST = ImageRequest("r", "a dot", None, 1, None, None, None, None, None)
IMAGES = Images((Image(b"", 0),), 8, 8, Usage(1))


class FakeResponse:
    """A `DeploymentResponse`: to be awaited, and cancelled."""

    def __init__(self) -> None:
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.is_cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.shield(self.result).__await__()

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeMethod:
    """`handle.method`: remembers its calls, whose results the test sets."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.responses: list[FakeResponse] = []
        self.called = asyncio.Event()
        self._error = error

    def remote(self, *args: Any) -> FakeResponse:
        if self._error is not None:
            raise self._error
        self.calls.append(args)
        self.responses.append(FakeResponse())
        self.called.set()
        return self.responses[-1]


class FakeHandle:
    """A `DeploymentHandle` with every method that a replica of ours has."""

    def __init__(self, error: Exception | None = None) -> None:
        self.complete = FakeMethod(error)
        self.stream = FakeMethod(error)
        self.embed = FakeMethod(error)
        self.score = FakeMethod(error)
        self.generate = FakeMethod(error)


class Streaming:
    """A stream under way: the ingress's end of it, and the replica's."""

    def __init__(self, receiver: Receiver, sender: Sender) -> None:
        self._handle = FakeHandle()
        self._sender = sender
        self.stream = LlmHandle(self._handle, receiver).stream(GENERATION)
        self._batches = aiter(self.stream)

    async def answer(self) -> tuple[FakeResponse, StreamWriter]:
        """The replica takes the call."""
        await self._handle.stream.called.wait()
        ((_, reply_to),) = self._handle.stream.calls
        return self._handle.stream.responses[0], self._sender.open(reply_to)

    @property
    def calls(self) -> list[tuple[Any, ...]]:
        return self._handle.stream.calls

    async def next(self) -> Sequence[Delta]:
        async with asyncio.timeout(PATIENCE_S):
            return await anext(self._batches)

    async def rest(self) -> list[Delta]:
        async with asyncio.timeout(PATIENCE_S):
            return [delta async for batch in self._batches for delta in batch]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver("127.0.0.1")
    yield receiver
    receiver.shut_down()


@pytest.fixture
async def streaming(receiver: Receiver) -> AsyncIterator[Streaming]:
    sender = Sender()
    streaming = Streaming(receiver, sender)
    yield streaming
    await streaming.stream.aclose()
    sender.shut_down()


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
async def test_result_is_that_of_the_call(
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
async def test_cancelling_cancels_the_call(
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


async def test_stream_calls_with_the_generation_and_its_ticket(streaming: Streaming) -> None:
    await streaming.answer()

    ((generation, reply_to),) = streaming.calls
    assert generation is GENERATION
    assert reply_to.address.startswith("tcp://127.0.0.1:")


async def test_deltas_are_yielded_as_they_come(streaming: Streaming) -> None:
    _, writer = await streaming.answer()

    writer.send(Delta(0, "a"))
    first = await streaming.next()
    writer.send(Delta(0, "b"))
    second = await streaming.next()

    assert (first, second) == ([Delta(0, "a")], [Delta(0, "b")])


async def test_deltas_that_wait_are_yielded_together(streaming: Streaming) -> None:
    _, writer = await streaming.answer()

    writer.send(Delta(0, "a"))
    writer.send(Delta(0, "b"))
    writer.send(Delta(0, "c"))

    assert await streaming.next() == [Delta(0, "a"), Delta(0, "b"), Delta(0, "c")]


async def test_result_after_the_last_delta_ends_the_stream(streaming: Streaming) -> None:
    response, writer = await streaming.answer()
    writer.send(Delta(0, "a", "stop"))
    first = await streaming.next()

    response.result.set_result(StreamEnd(COMPLETION, 1))
    rest = await streaming.rest()

    assert (first, rest) == ([Delta(0, "a", "stop")], [])
    assert streaming.stream.completion is COMPLETION


async def test_result_before_the_last_delta_waits_for_it(streaming: Streaming) -> None:
    response, writer = await streaming.answer()
    reading = asyncio.create_task(streaming.rest())
    response.result.set_result(StreamEnd(COMPLETION, 3))
    await asyncio.sleep(0.01)

    writer.send(Delta(0, "a"))
    await asyncio.sleep(0.01)
    writer.send(Delta(0, "b"))
    writer.send(Delta(0, "c", "stop"))

    assert await reading == [Delta(0, "a"), Delta(0, "b"), Delta(0, "c", "stop")]
    assert streaming.stream.completion is COMPLETION


async def test_all_that_has_come_before_the_first_look_is_yielded(streaming: Streaming) -> None:
    response, writer = await streaming.answer()
    writer.send(Delta(0, "a"))
    writer.send(Delta(0, "b", "stop"))
    response.result.set_result(StreamEnd(COMPLETION, 2))
    await asyncio.sleep(0.05)

    assert await streaming.rest() == [Delta(0, "a"), Delta(0, "b", "stop")]


async def test_stream_without_deltas_ends(streaming: Streaming) -> None:
    response, _ = await streaming.answer()

    response.result.set_result(StreamEnd(COMPLETION, 0))

    assert await streaming.rest() == []


async def test_failure_half_way_fails_the_stream(streaming: Streaming) -> None:
    response, writer = await streaming.answer()
    writer.send(Delta(0, "a"))
    first = await streaming.next()

    response.result.set_exception(ray_errors.RayActorError())

    with pytest.raises(ReplicaLostError):
        await streaming.rest()
    assert first == [Delta(0, "a")]


async def test_error_of_calling_fails_the_stream(receiver: Receiver) -> None:
    handle = FakeHandle(serve_errors.RayServeException("no router"))
    stream = LlmHandle(handle, receiver).stream(GENERATION)

    with pytest.raises(EngineError):
        await anext(aiter(stream))

    await stream.aclose()
    assert len(receiver) == 0


async def test_last_delta_that_never_comes_fails_the_stream(
    streaming: Streaming, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.ingress.handles._LAST_DELTAS_TIMEOUT_S", 0.01)
    response, writer = await streaming.answer()
    writer.send(Delta(0, "a"))
    response.result.set_result(StreamEnd(COMPLETION, 2))

    with pytest.raises(EngineError, match="lost on its way"):
        await streaming.rest()


async def test_gap_in_the_numbers_fails_the_stream(streaming: Streaming) -> None:
    _, writer = await streaming.answer()
    writer.send(Delta(0, "a"))
    first = await streaming.next()
    writer.sent += 1

    writer.send(Delta(0, "c"))

    assert first == [Delta(0, "a")]
    with pytest.raises(EngineError, match="lost on its way"):
        await streaming.rest()


async def test_what_came_before_a_failure_is_yielded_before_it(streaming: Streaming) -> None:
    response, writer = await streaming.answer()
    writer.send(Delta(0, "a"))
    await asyncio.sleep(0.05)
    response.result.set_exception(ray_errors.RayActorError())
    await asyncio.sleep(0.01)

    assert await streaming.next() == [Delta(0, "a")]
    with pytest.raises(ReplicaLostError):
        await streaming.rest()


async def test_completion_is_not_there_before_the_end(streaming: Streaming) -> None:
    with pytest.raises(AssertionError, match="not ended"):
        _ = streaming.stream.completion


async def test_closing_cancels_the_call_and_forgets_the_inbox(
    streaming: Streaming, receiver: Receiver
) -> None:
    response, _ = await streaming.answer()

    await streaming.stream.aclose()

    assert response.is_cancelled
    assert len(receiver) == 0


async def test_closing_at_once_leaves_no_call_under_way(receiver: Receiver) -> None:
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


async def test_closing_after_a_failure_that_nobody_saw_is_quiet(
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
    """What a caller gets when a replica raises."""
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
def test_error_of_ray_is_one_of_ours(error: Exception, ours: type[ApiError]) -> None:
    assert type(translated(error)) is ours


def test_error_of_ours_from_a_replica_arrives_as_it_was_raised() -> None:
    error = translated(in_replica(ContextLengthExceededError("Too long.", param="input[3]")))

    assert type(error) is ContextLengthExceededError
    assert (error.message, error.param) == ("Too long.", "input[3]")


def test_error_of_anybody_else_shows_nothing_of_itself() -> None:
    error = translated(in_replica(ValueError("/srv/secret")))

    assert "secret" not in str(error.body())


def classes_of(module: Any) -> list[type[Exception]]:
    return [
        cls for _, cls in inspect.getmembers(module, inspect.isclass) if issubclass(cls, Exception)
    ]


def blank(cls: type[Exception]) -> Exception:
    """An instance without its constructor: each wants other arguments."""
    error = cls.__new__(cls)
    error.cause = None  # type: ignore[attr-defined]  # what only RayTaskError has
    return error


@pytest.mark.parametrize(
    "cls", [*classes_of(ray_errors), *classes_of(serve_errors)], ids=lambda cls: cls.__name__
)
def test_every_error_that_ray_has_is_translated(cls: type[Exception]) -> None:
    assert isinstance(translated(blank(cls)), ApiError)


def test_cancellation_passes() -> None:
    with pytest.raises(asyncio.CancelledError), translate_ray_errors():
        raise asyncio.CancelledError
