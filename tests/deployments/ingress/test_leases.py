"""Leases, with both ends of both channels and a fake handle."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from ray import exceptions as ray_errors
from ray.serve import exceptions as serve_errors

from api.errors import EngineError, ModelFailedError, ReplicaLostError
from api.ports.stream import TextDelta, Usage
from api.ports.text import Completion, Generation, Sampling
from api.registry import model_failed
from deployments.ingress.handles import LlmHandle
from deployments.ingress.leases import LeasePool, LeaseSettings
from deployments.transport.peers import ChannelSettings
from deployments.transport.request_channel import LeasedRequest, RequestReceiver, RequestSender
from deployments.transport.token_channel import Receiver, Sender, StreamWriter
from deployments.transport.token_messages import StreamEnd
from tests.helpers.batches import Batches
from tests.helpers.handles import FakeHandle, FakeMethod, FakeResponse
from tests.helpers.token_channel import TIMEOUT_S, collect, until

GENERATION = Generation("r", ("Once",), Sampling())
COMPLETION = Completion((), Usage(1, 2))


class Ingress:
    """A pool of leases of a fake handle, whose calls the test answers as a replica does."""

    def __init__(self, receiver: Receiver, sender: Sender, settings: LeaseSettings) -> None:
        self.method = FakeMethod()
        self.receiver = receiver
        self.requests = RequestReceiver(lambda: "127.0.0.1")
        self.request_sender = RequestSender(ChannelSettings(linger_ms=50))
        self.pool = LeasePool(
            lambda: FakeHandle(self.method), receiver, self.request_sender, settings
        )
        self._sender = sender

    def stream(self, generation: Generation = GENERATION) -> "Streaming":
        return Streaming(self, generation, self._sender)

    async def answered(self, generation: Generation = GENERATION) -> bytes:
        """Have a request answered by a new lease, and return the lease's id."""
        streaming = self.stream(generation)
        await streaming.answer()
        lease_id: bytes = self.method.calls[-1][0]
        await streaming.finish()
        return lease_id

    async def following(self, lease_id: bytes) -> LeasedRequest | None:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.requests.expect(lease_id)

    def shut_down(self) -> None:
        self.pool.shut_down()
        self.request_sender.shut_down()
        self.requests.shut_down()


class Streaming:
    """An open stream: the ingress's end, and the replica's."""

    def __init__(self, ingress: Ingress, generation: Generation, sender: Sender) -> None:
        self._ingress = ingress
        self._sender = sender
        self.number = len(ingress.method.calls)
        self.stream = LlmHandle(ingress.pool).stream(generation)
        self._reading = Batches(self.stream)
        self._batches = aiter(self._reading)
        self._writer: StreamWriter

    async def answer(self) -> tuple[FakeResponse, StreamWriter]:
        """Wait for the call in the replica, and open its writer."""
        await until(lambda: len(self._ingress.method.calls) > self.number)
        (_, _, _, reply_to) = self._ingress.method.calls[self.number]
        self._writer = self._sender.open(reply_to)
        return self._ingress.method.responses[self.number], self._writer

    async def answer_following(self, lease_id: bytes) -> LeasedRequest:
        """Wait for the request in the replica, as one that follows, and open its writer."""
        request = await self._ingress.following(lease_id)
        assert request is not None
        self._writer = self._sender.open(request.reply_to)
        return request

    def send_end(self, completion: Completion = COMPLETION) -> None:
        """Send the result over the channel; the call stays open."""
        address = self._ingress.requests.find_address(self.reader.reply_to)
        assert address is not None
        self._writer.send_end(msgspec.msgpack.encode(completion), address)

    async def finish(self) -> None:
        """Send the result over the channel, read to the end and close."""
        self.send_end()
        await self.rest()
        await self.stream.aclose()

    @property
    def result(self) -> Completion | None:
        """The stream's result, once it has been read to its end."""
        return self._reading.result

    @property
    def reader(self) -> Any:
        return self.stream._reader

    async def arrival(self) -> None:
        """Wait until all deltas sent so far have arrived: they come in order."""
        reader = self._ingress.receiver.open()
        self._sender.open(reader.reply_to).send(TextDelta(0, "after"))
        await collect(reader, 1)
        self._ingress.receiver.close(reader)

    async def next(self) -> Sequence[TextDelta]:
        async with asyncio.timeout(TIMEOUT_S):
            return await anext(self._batches)

    async def rest(self) -> list[TextDelta]:
        async with asyncio.timeout(TIMEOUT_S):
            return [delta async for batch in self._batches for delta in batch]


PATIENT = LeaseSettings(idle_s=60.0)
"""Leases stay idle until the test has ended."""


@pytest.fixture
async def ingress(receiver: Receiver, sender: Sender) -> AsyncIterator[Ingress]:
    ingress = Ingress(receiver, sender, PATIENT)
    yield ingress
    ingress.shut_down()


@pytest.fixture
async def streaming(ingress: Ingress) -> AsyncIterator[Streaming]:
    streaming = ingress.stream()
    yield streaming
    await streaming.stream.aclose()


async def test_stream_passes_the_generation_and_the_address_of_its_reader(
    ingress: Ingress, streaming: Streaming
) -> None:
    await streaming.answer()

    ((lease_id, method, generation, reply_to),) = ingress.method.calls
    assert len(lease_id) == 16
    assert method == "stream"
    assert generation is GENERATION
    assert reply_to.address.startswith("ipc://")


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
    assert streaming.result is COMPLETION


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
    assert streaming.result is COMPLETION


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


async def test_error_of_calling_fails_the_stream(ingress: Ingress, receiver: Receiver) -> None:
    ingress.method.error = serve_errors.RayServeException("no router")
    streaming = ingress.stream()

    with pytest.raises(EngineError):
        await streaming.next()

    await streaming.stream.aclose()
    assert len(receiver) == 0


async def test_missing_last_delta_fails_the_stream(receiver: Receiver, sender: Sender) -> None:
    ingress = Ingress(receiver, sender, LeaseSettings(last_deltas_timeout_s=0.01))
    streaming = ingress.stream()
    response, writer = await streaming.answer()
    writer.send(TextDelta(0, "a"))

    response.result.set_result(StreamEnd(COMPLETION, 2))

    with pytest.raises(EngineError, match="lost on its way"):
        await streaming.rest()
    await streaming.stream.aclose()
    ingress.shut_down()


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


async def test_closing_cancels_the_call_and_closes_the_reader(
    streaming: Streaming, receiver: Receiver
) -> None:
    response, _ = await streaming.answer()

    await streaming.stream.aclose()

    assert response.is_cancelled
    assert len(receiver) == 0


async def test_closing_at_once_leaves_no_call_running(ingress: Ingress, receiver: Receiver) -> None:
    stream = ingress.stream().stream

    await stream.aclose()
    await asyncio.sleep(0)

    assert [each for each in ingress.method.responses if not each.is_cancelled] == []
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


async def test_result_over_the_channel_ends_the_stream(
    ingress: Ingress, streaming: Streaming
) -> None:
    response, writer = await streaming.answer()
    writer.send(TextDelta(0, "a", "stop"))
    streaming.send_end()

    assert await streaming.rest() == [TextDelta(0, "a", "stop")]
    assert streaming.result == COMPLETION
    assert not response.result.done()


async def test_result_over_the_channel_with_fewer_deltas_than_sent_fails_the_stream(
    streaming: Streaming,
) -> None:
    _, writer = await streaming.answer()
    writer.send(TextDelta(0, "a"))
    writer.sent += 1
    streaming.send_end()

    with pytest.raises(EngineError, match="lost on its way"):
        await streaming.rest()


async def test_result_of_another_version_fails_the_stream(
    ingress: Ingress, streaming: Streaming
) -> None:
    _, writer = await streaming.answer()
    writer.send_end(b"\x81\xa7choices\x01", "tcp://127.0.0.1:9")

    with pytest.raises(EngineError, match="failed to answer"):
        await streaming.rest()


async def test_call_that_ends_without_a_result_fails_the_stream(streaming: Streaming) -> None:
    response, _ = await streaming.answer()

    response.result.set_result(None)

    with pytest.raises(EngineError, match="lost on its way"):
        await streaming.rest()


async def test_next_request_takes_the_idle_lease(ingress: Ingress) -> None:
    lease_id = await ingress.answered()

    second = ingress.stream(replace(GENERATION, request_id="second"))
    request = await second.answer_following(lease_id)
    await second.finish()

    assert request.method == "stream"
    decoded = msgspec.msgpack.decode(request.request, type=Generation)
    assert decoded == replace(GENERATION, request_id="second")
    assert second.result == COMPLETION
    assert len(ingress.method.calls) == 1
    assert len(ingress.pool) == 1


async def test_request_beside_another_gets_a_lease_of_its_own(ingress: Ingress) -> None:
    first, second = ingress.stream(), ingress.stream()

    await until(lambda: len(ingress.method.calls) == 2)

    assert ingress.method.calls[0][0] != ingress.method.calls[1][0]
    await first.stream.aclose()
    await second.stream.aclose()
    assert len(ingress.pool) == 0


async def test_lease_that_was_used_last_is_taken_first(ingress: Ingress) -> None:
    first, second = ingress.stream(), ingress.stream()
    await first.answer()
    second.number = 1
    await second.answer()
    await second.finish()
    await first.finish()

    third = ingress.stream()
    request = await third.answer_following(ingress.method.calls[0][0])
    await third.finish()

    assert request.reply_to == third.reader.reply_to
    assert len(ingress.pool) == 2


async def test_idle_lease_is_closed_after_a_moment(receiver: Receiver, sender: Sender) -> None:
    ingress = Ingress(receiver, sender, LeaseSettings(idle_s=0.01))

    lease_id = await ingress.answered()

    assert await ingress.following(lease_id) is None
    assert len(ingress.pool) == 0
    ingress.shut_down()


async def test_old_lease_is_closed_when_its_request_ends(
    receiver: Receiver, sender: Sender
) -> None:
    ingress = Ingress(receiver, sender, LeaseSettings(idle_s=60.0, max_age_s=0.0))

    lease_id = await ingress.answered()

    assert await ingress.following(lease_id) is None
    assert len(ingress.pool) == 0
    ingress.shut_down()


async def test_idle_leases_are_closed_when_the_replicas_change(ingress: Ingress) -> None:
    ingress.pool.set_replicas(frozenset({"a"}))
    lease_id = await ingress.answered()

    ingress.pool.set_replicas(frozenset({"a", "b"}))

    assert await ingress.following(lease_id) is None
    assert len(ingress.pool) == 0


async def test_lease_in_use_when_the_replicas_change_is_closed_when_its_request_ends(
    ingress: Ingress,
) -> None:
    ingress.pool.set_replicas(frozenset({"a"}))
    streaming = ingress.stream()
    await streaming.answer()
    lease_id: bytes = ingress.method.calls[-1][0]

    ingress.pool.set_replicas(frozenset({"b"}))
    await streaming.finish()

    assert await ingress.following(lease_id) is None
    assert len(ingress.pool) == 0


async def test_leases_are_kept_while_the_replicas_stay(ingress: Ingress) -> None:
    ingress.pool.set_replicas(frozenset({"a", "b"}))
    await ingress.answered()

    ingress.pool.set_replicas(frozenset({"b", "a"}))

    assert len(ingress.pool) == 1


async def test_new_replicas_get_their_share_of_the_waiting_requests(ingress: Ingress) -> None:
    """Those that came last, so that the others keep their turns."""
    ingress.pool.set_replicas(frozenset({"a"}))
    streamings = []
    for _ in range(4):
        streamings.append(ingress.stream())
        _, writer = await streamings[-1].answer()
        writer.send_waiting(True)
    streamings[0]._writer.send_waiting(False)
    await streamings[0].arrival()
    reading = [asyncio.create_task(each.rest()) for each in streamings]
    await asyncio.sleep(0)

    ingress.pool.set_replicas(frozenset({"a", "b", "c"}))
    await until(lambda: len(ingress.method.calls) == 6)
    for number, each in enumerate(streamings[2:], 4):
        each.number = number
        await each.answer()
    for each in streamings:
        each.send_end()

    await asyncio.gather(*reading)
    was_cancelled = [response.is_cancelled for response in ingress.method.responses]
    assert was_cancelled == [False, False, True, True, False, False]
    for each in streamings:
        await each.stream.aclose()
    assert ingress.pool._calls == {}


async def test_waiting_requests_stay_when_replicas_go(ingress: Ingress) -> None:
    ingress.pool.set_replicas(frozenset({"a", "b"}))
    streaming = ingress.stream()
    _, writer = await streaming.answer()
    writer.send_waiting(True)
    await streaming.arrival()

    ingress.pool.set_replicas(frozenset({"a"}))
    await streaming.finish()

    assert len(ingress.method.calls) == 1


async def test_idle_lease_whose_call_failed_is_not_used(ingress: Ingress) -> None:
    await ingress.answered()
    ingress.method.responses[0].result.set_exception(ray_errors.RayActorError())
    await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})  # the lease's call

    second = ingress.stream()
    await second.answer()

    assert len(ingress.method.calls) == 2
    await second.stream.aclose()


async def test_idle_lease_of_a_lost_replica_is_not_used(ingress: Ingress) -> None:
    await ingress.answered()
    ingress.requests.shut_down()
    await until(lambda: ingress.request_sender.peers == 0)

    second = ingress.stream()
    await second.answer()

    assert len(ingress.method.calls) == 2
    await second.stream.aclose()


async def test_replica_lost_during_a_later_request_fails_it(ingress: Ingress) -> None:
    lease_id = await ingress.answered()
    second = ingress.stream()
    await second.answer_following(lease_id)

    ingress.requests.shut_down()

    with pytest.raises(ReplicaLostError):
        await second.rest()
    await second.stream.aclose()
    assert ingress.method.responses[0].is_cancelled


def lose_replica(ingress: Ingress, number: int = -1) -> None:
    """End a call as Ray does when its replica is killed."""
    ingress.method.responses[number].result.set_exception(ray_errors.RayActorError())


async def check_that_loss_is_final(ingress: Ingress, streaming: Streaming) -> None:
    """Lose the replica of the only request; it must fail and not be sent again."""
    lose_replica(ingress)

    with pytest.raises(ReplicaLostError):
        await streaming.rest()
    await streaming.stream.aclose()
    assert len(ingress.method.calls) == 1


async def test_request_of_a_lost_replica_is_sent_to_another(ingress: Ingress) -> None:
    ingress.pool.set_replicas(frozenset({"a", "b"}))
    streaming = ingress.stream()
    await streaming.answer()
    reading = asyncio.create_task(streaming.rest())

    lose_replica(ingress)
    streaming.number = 1
    _, writer = await streaming.answer()
    writer.send(TextDelta(0, "a"))
    streaming.send_end()

    assert await reading == [TextDelta(0, "a")]
    assert streaming.result == COMPLETION
    (_, _, first, _), (_, _, second, _) = ingress.method.calls
    assert second == replace(first, context=replace(first.context, is_retried=True))
    await streaming.stream.aclose()


async def test_request_by_an_idle_lease_of_a_lost_replica_is_sent_by_a_new_one(
    ingress: Ingress,
) -> None:
    ingress.pool.set_replicas(frozenset({"a", "b"}))
    first = ingress.stream()
    await first.answer()
    second = ingress.stream()
    await second.answer()
    await first.finish()
    await second.finish()
    third = ingress.stream()
    reading = asyncio.create_task(third.rest())

    for number in (0, 1):
        lose_replica(ingress, number)
    await third.answer()
    third.send_end()

    assert await reading == []
    assert len(ingress.method.calls) == 3
    await third.stream.aclose()


async def test_request_is_sent_to_another_replica_once(ingress: Ingress) -> None:
    ingress.pool.set_replicas(frozenset({"a", "b"}))
    streaming = ingress.stream()
    await streaming.answer()
    reading = asyncio.create_task(streaming.rest())

    lose_replica(ingress)
    await until(lambda: len(ingress.method.calls) == 2)
    lose_replica(ingress)

    with pytest.raises(ReplicaLostError):
        await reading
    await streaming.stream.aclose()
    assert len(ingress.method.calls) == 2


async def test_request_of_the_only_replica_fails_at_once(ingress: Ingress) -> None:
    """To wait for a new replica may take minutes: the client is told to try again."""
    ingress.pool.set_replicas(frozenset({"a"}))
    streaming = ingress.stream()
    await streaming.answer()

    await check_that_loss_is_final(ingress, streaming)


async def test_stream_that_has_begun_is_not_sent_to_another_replica(
    ingress: Ingress,
) -> None:
    ingress.pool.set_replicas(frozenset({"a", "b"}))
    streaming = ingress.stream()
    _, writer = await streaming.answer()
    writer.send(TextDelta(0, "a"))
    await streaming.next()

    await check_that_loss_is_final(ingress, streaming)


async def test_request_that_waits_for_a_replica_fails_when_none_will_come(
    ingress: Ingress, receiver: Receiver
) -> None:
    ingress.method.has_replicas = False
    streaming = ingress.stream()
    reading = asyncio.create_task(streaming.rest())
    await until(lambda: len(ingress.method.calls) == 1)

    ingress.pool.give_up_waiting(model_failed("m"))

    with pytest.raises(ModelFailedError, match="could not be loaded"):
        await reading
    await streaming.stream.aclose()
    assert ingress.method.responses[0].is_cancelled
    assert len(receiver) == 0


async def test_request_that_a_replica_has_begun_goes_on_when_no_other_will_come(
    ingress: Ingress,
) -> None:
    streaming = ingress.stream()
    await streaming.answer()

    ingress.pool.give_up_waiting(model_failed("m"))
    await streaming.finish()

    assert streaming.result == COMPLETION


async def test_idle_lease_is_not_given_up(ingress: Ingress) -> None:
    await ingress.answered()

    ingress.pool.give_up_waiting(model_failed("m"))

    assert len(ingress.pool) == 1
    assert not ingress.method.responses[0].is_cancelled


async def test_cancelled_request_of_a_lost_replica_leaves_no_call_running(
    ingress: Ingress, receiver: Receiver
) -> None:
    ingress.pool.set_replicas(frozenset({"a", "b"}))
    streaming = ingress.stream()
    await streaming.answer()
    reading = asyncio.create_task(streaming.rest())
    lose_replica(ingress)
    await until(lambda: len(ingress.method.calls) == 2)

    reading.cancel()
    await asyncio.wait({reading})
    await streaming.stream.aclose()

    assert ingress.method.responses[1].is_cancelled
    assert len(receiver) == 0


async def test_call_that_fails_during_a_later_request_fails_it(ingress: Ingress) -> None:
    lease_id = await ingress.answered()
    second = ingress.stream()
    await second.answer_following(lease_id)

    ingress.method.responses[0].result.set_exception(EngineError("broken"))

    with pytest.raises(EngineError, match="broken"):
        await second.rest()
    await second.stream.aclose()
    assert len(ingress.pool) == 0


async def test_closing_a_later_request_cancels_the_call(ingress: Ingress) -> None:
    lease_id = await ingress.answered()
    second = ingress.stream()
    await second.answer_following(lease_id)

    await second.stream.aclose()

    assert ingress.method.responses[0].is_cancelled
    assert len(ingress.pool) == 0


async def test_closing_an_answered_stream_that_was_not_read_keeps_its_lease(
    ingress: Ingress,
) -> None:
    streaming = ingress.stream()
    response, writer = await streaming.answer()
    writer.send(TextDelta(0, "a"))
    streaming.send_end()
    await streaming.arrival()

    await streaming.stream.aclose()

    assert not response.is_cancelled
    assert len(ingress.pool) == 1


@pytest.mark.parametrize("adapter", ["pirate", None])
async def test_lease_serves_requests_for_its_own_adapter_only(
    ingress: Ingress, adapter: str | None
) -> None:
    generation = replace(GENERATION, adapter=adapter)
    other = replace(GENERATION, adapter="loud")
    lease_id = await ingress.answered(generation)

    second = ingress.stream(other)
    await second.answer()
    third = ingress.stream(generation)
    await third.answer_following(lease_id)

    assert len(ingress.method.calls) == 2
    await second.stream.aclose()
    await third.stream.aclose()


HUGE_NUMBER = Sampling(json_schema={"maximum": 2**70})
SURROGATE = Sampling(stop=("\ud800",))


@pytest.mark.parametrize("sampling", [HUGE_NUMBER, SURROGATE], ids=["number", "surrogate"])
async def test_request_that_the_channel_cannot_carry_gets_a_new_lease(
    ingress: Ingress, sampling: Sampling
) -> None:
    await ingress.answered()
    generation = replace(GENERATION, sampling=sampling)

    second = ingress.stream(generation)
    await second.answer()

    assert ingress.method.calls[1][2] is generation
    assert len(ingress.pool) == 1
    await second.stream.aclose()


async def test_large_request_gets_a_new_lease(receiver: Receiver, sender: Sender) -> None:
    ingress = Ingress(receiver, sender, LeaseSettings(idle_s=60.0, max_request_bytes=1000))
    await ingress.answered()
    generation = replace(GENERATION, prompts=("a" * 1000,))

    second = ingress.stream(generation)
    await second.answer()

    assert ingress.method.calls[1][2] is generation
    await second.stream.aclose()
    ingress.shut_down()


async def test_shut_down_closes_idle_leases(ingress: Ingress) -> None:
    lease_id = await ingress.answered()

    ingress.pool.shut_down()

    assert await ingress.following(lease_id) is None
    assert len(ingress.pool) == 0
