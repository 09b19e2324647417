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
        self.is_aborted = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_aborted

    def abort(self) -> None:
        self.is_aborted = True


def to_frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def connect(received: list[Any]) -> tuple[Connection, FakeTransport]:
    connection = Connection(
        to_ledger_decoder, lambda _, messages: received.extend(messages), lambda _: None
    )
    transport = FakeTransport()
    connection.connection_made(transport)
    return connection, transport


def test_frames_may_arrive_in_any_pieces():
    received: list[Any] = []
    connection, transport = connect(received)
    data = to_frame(msgspec.msgpack.encode(MESSAGES)) * 3
    for position in range(len(data)):
        connection.data_received(data[position : position + 1])

    assert received == MESSAGES * 3
    assert not transport.is_aborted


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", to_frame(b"\xc1"), b"GET / HTTP/1.1\r\n"])
def test_invalid_frame_closes_the_connection(data: bytes):
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
