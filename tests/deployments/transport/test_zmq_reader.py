"""`ZmqReader` on a socket pair of its own."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import zmq

from deployments.transport.zmq_reader import ZmqReader
from tests.helpers.service import ROOT
from tests.helpers.token_channel import count_turns_until, until


class Pair:
    """A PUSH socket connected to a PULL socket."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.pull: Any = self.context.socket(zmq.PULL)
        self.push: Any = self.context.socket(zmq.PUSH)
        self.push.connect(f"tcp://127.0.0.1:{self.pull.bind_to_random_port('tcp://127.0.0.1')}")
        self.messages: list[list[bytes]] = []


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    pair = Pair()
    yield pair
    pair.context.destroy(linger=0)


async def test_messages_are_passed_on_in_order_with_all_frames(pair: Pair) -> None:
    reader = ZmqReader(pair.pull, pair.messages.append)

    pair.push.send(b"a")
    pair.push.send_multipart([b"b", b"c"])
    await until(lambda: len(pair.messages) == 2)

    assert pair.messages == [[b"a"], [b"b", b"c"]]
    reader.close()


async def test_messages_that_came_before_the_reader_are_passed_on(pair: Pair) -> None:
    pair.push.send(b"a")
    assert pair.pull.poll(5000)

    reader = ZmqReader(pair.pull, pair.messages.append)
    await until(lambda: pair.messages)

    assert pair.messages == [[b"a"]]
    reader.close()


async def test_other_callbacks_run_between_portions_of_messages(pair: Pair) -> None:
    for _ in range(10):
        pair.push.send(b"a")
    assert pair.pull.poll(5000)

    reader = ZmqReader(pair.pull, pair.messages.append, messages_per_turn=1)
    turns = await count_turns_until(lambda: len(pair.messages) == 10)

    assert turns >= 5  # at most two callbacks read in one turn
    reader.close()


async def test_end_of_a_turn_is_told_once_for_all_its_messages() -> None:
    context = zmq.Context()
    pull: Any = context.socket(zmq.PULL)
    push: Any = context.socket(zmq.PUSH)
    pull.bind("inproc://turns")  # unlike TCP's, these messages have come once they are sent
    push.connect("inproc://turns")
    for _ in range(10):
        push.send(b"a")
    messages: list[list[bytes]] = []
    ends: list[int] = []

    reader = ZmqReader(
        pull, messages.append, messages_per_turn=5, on_turn_end=lambda: ends.append(len(messages))
    )
    await until(lambda: ends and ends[-1] == 10)

    assert set(ends) == {5, 10}
    reader.close()
    context.destroy(linger=0)


async def test_end_of_a_turn_is_told_if_a_message_fails(pair: Pair) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    ends: list[int] = []

    def fail(frames: list[bytes]) -> None:
        pair.messages.append(frames)
        raise ValueError

    reader = ZmqReader(pair.pull, fail, on_turn_end=lambda: ends.append(len(pair.messages)))
    pair.push.send(b"a")
    await until(lambda: pair.messages)

    assert ends[-1] == 1
    reader.close()


async def test_closing_within_the_callback_ends_reading(pair: Pair) -> None:
    def take(frames: list[bytes]) -> None:
        pair.messages.append(frames)
        reader.close()

    reader = ZmqReader(pair.pull, take)
    pair.push.send(b"a")
    pair.push.send(b"b")
    await until(lambda: pair.messages)
    await asyncio.sleep(0)

    assert pair.messages == [[b"a"]]
    assert pair.pull.closed


def test_reader_can_be_closed_after_its_event_loop() -> None:
    pair = Pair()

    async def open_reader() -> ZmqReader:
        return ZmqReader(pair.pull, pair.messages.append)

    reader = asyncio.run(open_reader())

    reader.close()

    assert pair.pull.closed
    pair.context.destroy(linger=0)


def test_closing_a_monitored_socket_during_a_handshake_does_not_hang() -> None:
    """In another process, so that a hang ends with a timeout and not with the test run."""
    run = subprocess.run(
        [sys.executable, "-c", _CLOSE_DURING_HANDSHAKE],
        cwd=ROOT,
        timeout=30,
        capture_output=True,
        check=True,
    )

    assert run.stdout == b"done\n"


_CLOSE_DURING_HANDSHAKE = """
import asyncio, time, zmq
from deployments.transport.token_channel import Sender
from deployments.transport.token_messages import ReplyTo
from deployments.transport.zmq_reader import ZmqReader

close = ZmqReader.close

def close_slowly(reader):
    close(reader)
    time.sleep(0.005)  # until ZeroMQ's thread has an event to report

ZmqReader.close = close_slowly

async def open_and_close():
    context = zmq.Context()
    for _ in range(100):
        socket = context.socket(zmq.PULL)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        sender = Sender()
        sender.open(ReplyTo(f"tcp://127.0.0.1:{port}", b"1" * 16))
        sender.shut_down()
        socket.close()

asyncio.run(open_and_close())
print("done")
"""
