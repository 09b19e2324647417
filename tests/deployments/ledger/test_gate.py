"""Who may speak to the ledger, at real sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from deployments.ledger.gate import MAX_FRAME_BYTES, TOKEN_BYTES, Gate, GuardedConnection
from deployments.ledger.protocol import Audit, Hello, to_ledger_decoder

TOKEN = bytes(range(TOKEN_BYTES))
HELLO = Hello("session", [], [], wants_keys=False, wants_details=False)
TIMEOUT_S = 5.0


class Door:
    """A listening gate, and what came through it."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.messages: list[Any] = []
        self.arrived = asyncio.Event()
        self.port = 0
        self.writers: list[asyncio.StreamWriter] = []

    def take(self, connection: Any, messages: list[Any]) -> None:
        self.messages += messages
        self.arrived.set()

    async def connect(self, data: bytes = b"") -> asyncio.StreamReader:
        """Connect and send; the connection stays open as long as the reader is kept."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        self.writers.append(writer)
        return reader


@contextlib.asynccontextmanager
async def listening(**limits: Any) -> AsyncIterator[Door]:
    door = Door(Gate(TOKEN, **limits))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: GuardedConnection(door.gate, to_ledger_decoder, door.take, lambda _: None),
        "127.0.0.1",
        0,
    )
    door.port = server.sockets[0].getsockname()[1]
    try:
        yield door
    finally:
        for writer in door.writers:
            writer.close()
        server.close()


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the other end closes the connection."""
    async with asyncio.timeout(TIMEOUT_S):
        try:
            return await reader.read() == b""
        except ConnectionResetError:
            return True


def to_frame(*messages: Any) -> bytes:
    payload = msgspec.msgpack.encode(messages)
    return len(payload).to_bytes(4, "big") + payload


async def test_client_with_the_token_is_heard() -> None:
    async with listening() as door, asyncio.timeout(TIMEOUT_S):
        await door.connect(TOKEN + to_frame(HELLO))
        await door.arrived.wait()

        assert door.messages == [HELLO]


async def test_token_may_arrive_in_pieces() -> None:
    async with listening() as door, asyncio.timeout(TIMEOUT_S):
        await door.connect(TOKEN[:7])
        for piece in (TOKEN[7:20], TOKEN[20:] + to_frame(HELLO)[:3], to_frame(HELLO)[3:]):
            await asyncio.sleep(0.01)
            door.writers[0].write(piece)
        await door.arrived.wait()

        assert door.messages == [HELLO]


@pytest.mark.parametrize(
    "data",
    [
        bytes(TOKEN_BYTES) + to_frame(HELLO),
        to_frame(HELLO, *[Audit("a", {"a": [[]] * 1000})] * 10),
        b"GET / HTTP/1.1\r\nhost: ledger\r\nconnection: close\r\n\r\n",
    ],
    ids=["wrong token", "frames at once", "HTTP"],
)
async def test_client_without_the_token_is_disconnected_and_nothing_is_decoded(
    data: bytes,
) -> None:
    async with listening() as door:
        assert await is_closed(await door.connect(data))
        assert door.messages == []
        assert len(door.gate) == 0


@pytest.mark.parametrize("data", [b"", TOKEN[:-1]])
async def test_client_that_does_not_say_its_token_in_time_is_disconnected(data: bytes) -> None:
    async with listening(timeout_s=0.05) as door:
        assert await is_closed(await door.connect(data))


async def test_those_that_say_nothing_do_not_take_the_place_of_clients() -> None:
    async with listening(max_waiting=3) as door, asyncio.timeout(TIMEOUT_S):
        silent = [await door.connect() for _ in range(20)]
        await door.connect(TOKEN + to_frame(HELLO))
        await door.arrived.wait()

        assert door.messages == [HELLO]
        assert await is_closed(silent[0])
        assert len(door.gate) <= 4


async def test_clients_are_limited_too() -> None:
    async with listening(max_clients=1) as door, asyncio.timeout(TIMEOUT_S):
        await door.connect(TOKEN + to_frame(HELLO))
        await door.arrived.wait()

        assert await is_closed(await door.connect(TOKEN + to_frame(HELLO)))


async def test_frame_of_a_client_is_limited() -> None:
    async with listening() as door:
        reader = await door.connect(TOKEN + (MAX_FRAME_BYTES + 1).to_bytes(4, "big"))

        assert await is_closed(reader)


async def test_refusals_are_logged_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    async with listening() as door:
        for _ in range(20):
            await is_closed(await door.connect(bytes(TOKEN_BYTES)))

    assert [record.getMessage() for record in caplog.records] == [
        "refused 1 connections without a valid token"
    ]
