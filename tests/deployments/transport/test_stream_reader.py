"""`StreamReader` alone, without a socket."""

import asyncio

import pytest

from api.ports.stream import Extra, ImageProgress, TextDelta
from deployments.transport.token_channel import ReplyTo, StreamDelta, StreamReader
from tests.helpers.token_channel import TIMEOUT_S


def make_reader(*deltas: StreamDelta, coalesce_deltas: int = 32) -> StreamReader:
    """A reader to which these deltas have come."""
    reader = StreamReader(ReplyTo("tcp://127.0.0.1:9", b"1" * 16), coalesce_deltas)
    for number, delta in enumerate(deltas):
        reader.put(number, delta)
    return reader


def test_draining_empties_the_reader() -> None:
    reader = make_reader(TextDelta(0, "a"), TextDelta(0, "b"))

    assert reader.drain() == [TextDelta(0, "a"), TextDelta(0, "b")]
    assert reader.drain() == []
    assert reader.received == 2


def test_reader_far_behind_gets_one_delta_per_choice() -> None:
    reader = make_reader(
        TextDelta(0, "a"),
        TextDelta(1, "x"),
        TextDelta(0, "b"),
        TextDelta(0, "", "stop"),
        TextDelta(1, "y"),
        coalesce_deltas=5,
    )

    assert reader.drain() == [TextDelta(0, "ab", "stop"), TextDelta(1, "xy")]
    assert reader.received == 5


@pytest.mark.parametrize(
    "delta",
    [TextDelta(0, "c", None, Extra(reasoning="hm")), ImageProgress(1, 20)],
    ids=["extra", "image"],
)
def test_deltas_that_are_not_plain_text_are_not_merged(delta: StreamDelta) -> None:
    deltas = [TextDelta(0, "a"), TextDelta(0, "b"), delta]

    assert make_reader(*deltas, coalesce_deltas=2).drain() == deltas


@pytest.mark.parametrize("number", [0, 2, -1])
def test_number_out_of_order_is_a_gap(number: int) -> None:
    reader = make_reader(TextDelta(0, "a"))

    reader.put(number, TextDelta(0, "?"))

    assert reader.has_gap
    assert reader.drain() == [TextDelta(0, "a")]


async def test_waiting_ends_at_once_if_there_are_deltas() -> None:
    reader = make_reader(TextDelta(0, "a"))

    async with asyncio.timeout(TIMEOUT_S):
        await reader.wait()


async def test_waiting_ends_when_a_delta_comes() -> None:
    reader = make_reader()
    waiting = asyncio.ensure_future(reader.wait())
    await asyncio.sleep(0)

    reader.put(0, TextDelta(0, "a"))

    async with asyncio.timeout(TIMEOUT_S):
        await waiting


async def test_notify_ends_waiting_without_a_delta() -> None:
    reader = make_reader()
    waiting = asyncio.ensure_future(reader.wait())
    await asyncio.sleep(0)

    reader.notify()
    reader.notify()
    async with asyncio.timeout(TIMEOUT_S):
        await waiting

    assert reader.drain() == []
