import asyncio
from typing import Any

import msgspec
import pytest

from api.ports.rate_limits import Amounts
from deployments.ledger.connection import Connection
from deployments.ledger.protocol import Settle, to_ledger_decoder

MESSAGES = [Settle("1", Amounts(tokens=1)), Settle("2", Amounts(tokens=2))]


class FakeTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.aborted = asyncio.Event()

    @property
    def is_aborted(self) -> bool:
        return self.aborted.is_set()

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.aborted.set()


def to_frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def connect(received: list[Any], **limits: Any) -> tuple[Connection, FakeTransport]:
    connection = Connection(
        to_ledger_decoder, lambda _, messages: received.extend(messages), lambda _: None, **limits
    )
    transport = FakeTransport()
    connection.connection_made(transport)
    return connection, transport


async def test_frames_may_arrive_in_any_pieces():
    received: list[Any] = []
    connection, transport = connect(received)
    data = to_frame(msgspec.msgpack.encode(MESSAGES)) * 3
    for position in range(len(data)):
        connection.data_received(data[position : position + 1])

    assert received == MESSAGES * 3
    assert not transport.is_aborted


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", to_frame(b"\xc1"), b"GET / HTTP/1.1\r\n"])
async def test_invalid_frame_closes_the_connection(data: bytes):
    received: list[Any] = []
    connection, transport = connect(received)
    connection.data_received(data)

    assert transport.is_aborted
    assert received == []


async def test_messages_of_one_iteration_share_a_frame():
    connection, transport = connect([])
    for message in MESSAGES:
        connection.send(message)
    await asyncio.sleep(0)

    assert transport.writes == [to_frame(msgspec.msgpack.encode(MESSAGES))]


async def test_messages_are_dropped_once_the_connection_is_closed():
    connection, transport = connect([])
    connection.send(MESSAGES[0])
    connection.close()
    await asyncio.sleep(0)

    assert transport.writes == []


async def test_frame_that_is_not_whole_in_time_closes_the_connection():
    connection, transport = connect([], frame_timeout_s=0.01)
    connection.data_received(to_frame(b"\x90")[:-1])

    async with asyncio.timeout(5):
        await transport.aborted.wait()


async def test_time_of_a_frame_ends_with_the_frame():
    connection, transport = connect([], frame_timeout_s=0.01)
    frame = to_frame(b"\x90")
    connection.data_received(frame[:-1])
    connection.data_received(frame[-1:])
    await asyncio.sleep(0.05)

    assert not transport.is_aborted


async def test_frame_above_the_limit_closes_the_connection_before_it_is_here():
    received: list[Any] = []
    connection, transport = connect(received, max_frame_bytes=100)
    connection.data_received((101).to_bytes(4, "big"))

    assert transport.is_aborted


async def test_many_messages_are_sent_in_frames_of_bounded_size():
    connection, transport = connect([])
    for number in range(2500):
        connection.send(Settle(str(number), Amounts()))
    await asyncio.sleep(0)

    counts = [len(msgspec.msgpack.decode(write[4:])) for write in transport.writes]
    assert counts == [1000, 1000, 500]


async def test_peer_that_does_not_read_is_disconnected():
    connection, transport = connect([])
    assert transport.high

    connection.pause_writing()  # as asyncio does above that limit

    assert transport.is_aborted
