"""`ChannelStream`, with both ends of the token channel and a fake handle."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors

from api.errors import EngineError, ReplicaLostError
from api.ports.stream import TextDelta, Usage
from api.ports.text import Completion, Generation, Sampling
from deployments.ingress.handles import ChannelStream, LlmHandle
from deployments.transport.token_channel import Receiver, Sender, StreamEnd, StreamWriter
from tests.helpers.handles import FakeHandle, FakeMethod, FakeResponse
from tests.helpers.token_channel import TIMEOUT_S, collect

GENERATION = Generation("r", ("Once",), Sampling())
COMPLETION = Completion((), Usage(1, 2))


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
async def streaming(receiver: Receiver, sender: Sender) -> AsyncIterator[Streaming]:
    streaming = Streaming(receiver, sender)
    yield streaming
    await streaming.stream.aclose()


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
