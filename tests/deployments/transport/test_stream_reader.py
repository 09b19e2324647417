"""`StreamReader` alone, without a socket."""

import asyncio
from collections.abc import Awaitable, Sequence

import pytest

from api.errors import EngineError
from api.ports.stream import Extra, ImageProgress, TextDelta
from deployments.transport.stream_reader import StreamReader
from deployments.transport.token_messages import ReplyTo, StreamDelta
from tests.helpers.token_channel import TIMEOUT_S


def make_reader(*deltas: StreamDelta, coalesce_deltas: int = 32) -> StreamReader:
    """A reader to which these deltas have come."""
    reader = StreamReader(ReplyTo("tcp://127.0.0.1:9", b"1" * 16), coalesce_deltas)
    for number, delta in enumerate(deltas):
        reader.put(number, delta)
    return reader


class Consumer:
    """Takes batches; from `hold` until `release` it must be awaited, as for a slow client."""

    def __init__(self) -> None:
        self.batches: list[list[StreamDelta]] = []
        self.error: Exception | None = None
        self._free = asyncio.Event()
        self._free.set()

    def __call__(self, deltas: Sequence[StreamDelta]) -> Awaitable[None] | None:
        if self.error is not None:
            raise self.error
        self.batches.append(list(deltas))
        return None if self._free.is_set() else self._wait()

    def hold(self) -> None:
        self._free.clear()

    def release(self) -> None:
        self._free.set()

    async def _wait(self) -> None:
        await self._free.wait()


def test_consumer_gets_what_has_come_before_it_at_once() -> None:
    consumer = Consumer()
    reader = make_reader(TextDelta(0, "a"), TextDelta(0, "b"))

    reader.start(consumer)

    assert consumer.batches == [[TextDelta(0, "a"), TextDelta(0, "b")]]
    assert reader.received == 2


def test_consumer_gets_the_deltas_of_one_message_together_and_in_no_task() -> None:
    consumer = Consumer()
    reader = make_reader()
    reader.start(consumer)

    reader.put(0, TextDelta(0, "a"))
    reader.put(1, TextDelta(0, "b"))
    reader.flush()
    reader.put(2, TextDelta(0, "c"))
    reader.flush()

    assert consumer.batches == [[TextDelta(0, "a"), TextDelta(0, "b")], [TextDelta(0, "c")]]


def test_consumer_is_not_called_without_deltas() -> None:
    consumer = Consumer()
    reader = make_reader()

    reader.start(consumer)
    reader.flush()

    assert consumer.batches == []


def test_consumer_far_behind_gets_one_delta_per_choice() -> None:
    consumer = Consumer()
    reader = make_reader(
        TextDelta(0, "a"),
        TextDelta(1, "x"),
        TextDelta(0, "b"),
        TextDelta(0, "", "stop"),
        TextDelta(1, "y"),
        coalesce_deltas=5,
    )

    reader.start(consumer)

    assert consumer.batches == [[TextDelta(0, "ab", "stop"), TextDelta(1, "xy")]]
    assert reader.received == 5


@pytest.mark.parametrize(
    "delta",
    [TextDelta(0, "c", None, Extra(reasoning="hm")), ImageProgress(1, 20)],
    ids=["extra", "image"],
)
def test_deltas_that_are_not_plain_text_are_not_merged(delta: StreamDelta) -> None:
    consumer = Consumer()
    deltas = [TextDelta(0, "a"), TextDelta(0, "b"), delta, TextDelta(0, "c"), TextDelta(0, "d")]

    make_reader(*deltas, coalesce_deltas=5).start(consumer)

    assert consumer.batches == [[TextDelta(0, "ab"), delta, TextDelta(0, "cd")]]


async def test_deltas_wait_while_the_client_reads_slowly_and_are_few() -> None:
    consumer = Consumer()
    reader = make_reader(coalesce_deltas=4)
    reader.start(consumer)
    consumer.hold()
    for number in range(1000):
        reader.put(number, TextDelta(number % 3, "a"))
        reader.flush()
    catching_up = asyncio.ensure_future(reader.catch_up())
    await asyncio.sleep(0)
    kept = len(reader._deltas)

    consumer.release()
    async with asyncio.timeout(TIMEOUT_S):
        await catching_up

    assert kept < 8
    first, rest = consumer.batches
    assert first == [TextDelta(0, "a")]
    assert sum(len(delta.text) for delta in rest if isinstance(delta, TextDelta)) == 999


async def test_deltas_are_passed_on_at_once_again_after_catching_up() -> None:
    consumer = Consumer()
    reader = make_reader(TextDelta(0, "a"))
    consumer.hold()
    reader.start(consumer)
    consumer.release()
    async with asyncio.timeout(TIMEOUT_S):
        await reader.catch_up()

    reader.put(1, TextDelta(0, "b"))
    reader.flush()

    assert consumer.batches == [[TextDelta(0, "a")], [TextDelta(0, "b")]]


async def test_error_of_the_consumer_is_raised_where_the_reader_catches_up() -> None:
    consumer = Consumer()
    consumer.error = ConnectionResetError()
    reader = make_reader()
    reader.start(consumer)

    reader.put(0, TextDelta(0, "a"))
    reader.flush()

    async with asyncio.timeout(TIMEOUT_S):
        await reader.wait()
    with pytest.raises(ConnectionResetError):
        await reader.catch_up()


@pytest.mark.parametrize("number", [0, 2, -1])
async def test_number_out_of_order_is_an_error_and_ends_waiting(number: int) -> None:
    consumer = Consumer()
    reader = make_reader(TextDelta(0, "a"))
    reader.start(consumer)

    reader.put(number, TextDelta(0, "?"))
    reader.flush()

    async with asyncio.timeout(TIMEOUT_S):
        await reader.wait()
        await reader.wait_for(2)
    with pytest.raises(EngineError, match="lost on its way"):
        await reader.catch_up()
    assert consumer.batches == [[TextDelta(0, "a")]]


async def test_waiting_for_a_number_of_deltas_ends_with_the_last_of_them() -> None:
    reader = make_reader()
    reader.start(Consumer())
    waiting = asyncio.ensure_future(reader.wait_for(2))
    await asyncio.sleep(0)
    reader.put(0, TextDelta(0, "a"))
    reader.flush()
    await asyncio.sleep(0)
    is_early = waiting.done()

    reader.put(1, TextDelta(0, "b"))
    reader.flush()

    async with asyncio.timeout(TIMEOUT_S):
        await waiting
    assert not is_early


async def test_waiting_goes_on_when_deltas_come() -> None:
    reader = make_reader()
    reader.start(Consumer())
    waiting = asyncio.ensure_future(reader.wait())
    await asyncio.sleep(0)

    reader.put(0, TextDelta(0, "a"))
    reader.flush()
    await asyncio.sleep(0)

    assert not waiting.done()
    waiting.cancel()


async def test_notify_ends_waiting_without_a_delta() -> None:
    reader = make_reader()
    waiting = asyncio.ensure_future(reader.wait())
    await asyncio.sleep(0)

    reader.notify()
    reader.notify()

    async with asyncio.timeout(TIMEOUT_S):
        await waiting
