"""Both ends in one process, over the loopback address, as on a cluster of one node."""

import asyncio
import contextlib
import gc
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import msgspec
import psutil
import pytest
import zmq

from api.errors import ReplicaLostError
from api.ports.stream import Delta
from deployments.transport.token_channel import (
    Receiver,
    ReplyTo,
    Sender,
    StreamReader,
    StreamWriter,
)
from tests.helpers.service import ROOT

PATIENCE_S = 5.0
NOBODY = "tcp://127.0.0.1:9"
"""An address where nobody listens."""


@pytest.fixture(autouse=True)
def _unmerged(monkeypatch: pytest.MonkeyPatch) -> None:
    """How deltas fall into batches is chance; the tests below look at single ones."""
    monkeypatch.setattr("deployments.transport.token_channel._COALESCE_DELTAS", 1_000_000)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver("127.0.0.1")
    yield receiver
    receiver.shut_down()


@pytest.fixture
def sender() -> Iterator[Sender]:
    sender = Sender()
    yield sender
    sender.shut_down()


class Tap:
    """A PULL socket in the place of a receiver: sees messages, not deltas."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.address = f"tcp://127.0.0.1:{port}"

    def next_message(self) -> list[tuple[bytes, int, int, str, str | None]]:
        assert self._socket.poll(int(PATIENCE_S * 1000)), "no message came"
        return [tuple(item) for item in msgspec.msgpack.decode(self._socket.recv())]

    def has_more(self) -> bool:
        return bool(self._socket.poll(50))

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def tap() -> Iterator[Tap]:
    tap = Tap()
    yield tap
    tap.close()


async def collect(reader: StreamReader, count: int) -> list[Delta]:
    """What arrives, once so much has."""
    deltas: list[Delta] = []
    async with asyncio.timeout(PATIENCE_S):
        while reader.received < count:
            await reader.wait()
            deltas += reader.drain()
    return deltas + reader.drain()


def send_all(writer: StreamWriter, deltas: Sequence[Delta]) -> None:
    """All within one tick."""
    for delta in deltas:
        writer.send(delta)


async def send_in_turn(writer: StreamWriter, texts: Sequence[str]) -> None:
    """A tick for each."""
    for text in texts:
        writer.send(Delta(0, text))
        await asyncio.sleep(0)


async def come_and_go() -> None:
    """One delta from a new sender to a new receiver, and both are gone."""
    receiver, sender = Receiver("127.0.0.1"), Sender()
    reader = receiver.open()
    sender.open(reader.reply_to).send(Delta(0, "a"))
    await collect(reader, 1)
    sender.shut_down()
    receiver.shut_down()


@contextlib.asynccontextmanager
async def frozen_listener() -> AsyncIterator[str]:
    """A PULL socket of another process, which is stopped once a peer has connected."""
    program = (
        "import zmq; s = zmq.Context().socket(zmq.PULL)\n"
        "print(s.bind_to_random_port('tcp://127.0.0.1'), flush=True)\n"
        "s.recv(); print('read', flush=True); s.recv()"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    port = int(await process.stdout.readline())

    async def freeze() -> None:
        assert process.stdout
        await process.stdout.readline()
        process.send_signal(signal.SIGSTOP)

    freezing = asyncio.ensure_future(freeze())
    yield f"tcp://127.0.0.1:{port}"
    await freezing
    process.kill()
    await process.wait()


async def push(receiver: Receiver, message: bytes) -> None:
    """Send raw bytes to a receiver, and then prove that they have been read."""
    reader = receiver.open()
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.connect(reader.reply_to.address)
    socket.send(message)
    socket.send(msgspec.msgpack.encode([(reader.reply_to.stream_id, 0, 0, "after", None)]))
    await collect(reader, 1)
    receiver.close(reader)
    context.destroy(linger=0)


async def test_deltas_arrive_in_order(receiver: Receiver, sender: Sender) -> None:
    reader = receiver.open()
    writer = sender.open(reader.reply_to)
    sent = [Delta(number % 3, f"é\u2028\0😀{number}") for number in range(1000)]

    send_all(writer, sent)

    assert await collect(reader, 1000) == sent
    assert writer.sent == reader.received == 1000


async def test_order_holds_over_many_ticks(receiver: Receiver, sender: Sender) -> None:
    reader = receiver.open()
    writer = sender.open(reader.reply_to)

    texts = [str(number) for number in range(100)]
    await send_in_turn(writer, texts)

    assert [delta.text for delta in await collect(reader, 100)] == texts


@pytest.mark.parametrize("reason", ["stop", "length", None])
async def test_finish_reason_arrives(receiver: Receiver, sender: Sender, reason: None) -> None:
    reader = receiver.open()

    sender.open(reader.reply_to).send(Delta(2, "", reason))

    assert await collect(reader, 1) == [Delta(2, "", reason)]


async def test_many_requests_over_two_senders_do_not_mix(receiver: Receiver) -> None:
    first, second = Sender(), Sender()
    readers = [receiver.open() for _ in range(50)]
    writers = [(first, second)[n % 2].open(reader.reply_to) for n, reader in enumerate(readers)]
    texts = [str(step) for step in range(20)]

    await asyncio.gather(
        *(
            send_in_turn(writer, [f"{n}:{text}" for text in texts])
            for n, writer in enumerate(writers)
        )
    )
    arrived = [await collect(reader, 20) for reader in readers]
    first.shut_down()
    second.shut_down()

    assert [[delta.text for delta in deltas] for deltas in arrived] == [
        [f"{n}:{text}" for text in texts] for n in range(50)
    ]
    assert receiver.dropped == 0


async def test_tickets_are_128_bits_and_never_the_same(receiver: Receiver) -> None:
    tickets = {receiver.open().reply_to.stream_id for _ in range(100)}

    assert len(tickets) == 100
    assert {len(stream_id) for stream_id in tickets} == {16}


async def test_deltas_of_one_tick_are_one_message(sender: Sender, tap: Tap) -> None:
    first = sender.open(ReplyTo(tap.address, b"1" * 16))
    second = sender.open(ReplyTo(tap.address, b"2" * 16))

    first.send(Delta(0, "a"))
    second.send(Delta(1, "b", "stop"))
    first.send(Delta(0, "c"))
    await asyncio.sleep(0)

    assert tap.next_message() == [
        (b"1" * 16, 0, 0, "a", None, None),
        (b"2" * 16, 0, 1, "b", "stop", None),
        (b"1" * 16, 1, 0, "c", None, None),
    ]
    assert not tap.has_more()


async def test_each_tick_is_a_message_of_its_own(sender: Sender, tap: Tap) -> None:
    writer = sender.open(ReplyTo(tap.address, b"1" * 16))

    writer.send(Delta(0, "a"))
    await asyncio.sleep(0)
    writer.send(Delta(0, "b"))
    await asyncio.sleep(0)

    assert [tap.next_message(), tap.next_message()] == [
        [(b"1" * 16, 0, 0, "a", None, None)],
        [(b"1" * 16, 1, 0, "b", None, None)],
    ]
    assert not tap.has_more()


async def test_tick_without_deltas_is_no_message(sender: Sender, tap: Tap) -> None:
    sender.open(ReplyTo(tap.address, b"1" * 16))

    await asyncio.sleep(0)

    assert not tap.has_more()


async def test_delta_that_cannot_be_written_takes_no_later_one_with_it(
    sender: Sender, tap: Tap
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    writer = sender.open(ReplyTo(tap.address, b"1" * 16))

    writer.send(Delta(0, "\ud800"))
    await asyncio.sleep(0)
    writer.send(Delta(0, "later"))
    await asyncio.sleep(0)

    assert tap.next_message() == [(b"1" * 16, 1, 0, "later", None, None)]


async def test_unknown_ticket_is_dropped_and_counted(receiver: Receiver, sender: Sender) -> None:
    reader = receiver.open()

    sender.open(ReplyTo(reader.reply_to.address, b"?" * 16)).send(Delta(0, "lost"))
    sender.open(reader.reply_to).send(Delta(0, "found"))

    assert await collect(reader, 1) == [Delta(0, "found")]
    assert receiver.dropped == 1


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"garbage",
        b"\xff" * 100,
        msgspec.msgpack.encode({"ticket": b"1"}),
        msgspec.msgpack.encode([(b"1" * 16, 0, "0", "a", None)]),
        msgspec.msgpack.encode([(b"1" * 16, 0, 0, "a", "tired")]),
        msgspec.msgpack.encode([(b"1" * 16, 0, 0)]),
        msgspec.msgpack.encode([(b"1" * 16, 0, 0, "a", None, None)])[:-2],
        msgspec.msgpack.encode([(b"1" * 16, 0, 0, b"\xff\xfe", None)]),
    ],
    ids=repr,
)
async def test_garbage_is_dropped_and_counted(receiver: Receiver, message: bytes) -> None:
    await push(receiver, message)

    assert receiver.dropped == 1


async def test_empty_list_of_deltas_is_nothing(receiver: Receiver) -> None:
    await push(receiver, msgspec.msgpack.encode([]))

    assert receiver.dropped == 0


async def test_what_comes_for_a_closed_inbox_is_dropped_and_counted(
    receiver: Receiver, sender: Sender
) -> None:
    closed, other = receiver.open(), receiver.open()
    receiver.close(closed)

    sender.open(closed.reply_to).send(Delta(0, "late"))
    sender.open(other.reply_to).send(Delta(0, "in time"))
    await collect(other, 1)

    assert receiver.dropped == 1
    assert (closed.received, closed.drain()) == (0, [])


async def test_inbox_may_be_closed_twice(receiver: Receiver) -> None:
    reader = receiver.open()

    receiver.close(reader)
    receiver.close(reader)

    assert len(receiver) == 0


async def test_receiver_counts_open_inboxes(receiver: Receiver) -> None:
    first, _ = receiver.open(), receiver.open()
    receiver.close(first)

    assert len(receiver) == 1


async def test_taking_empties_an_inbox(receiver: Receiver) -> None:
    reader = receiver.open()
    reader.put(0, Delta(0, "a"))
    reader.put(1, Delta(0, "b"))

    assert reader.drain() == [Delta(0, "a"), Delta(0, "b")]
    assert reader.drain() == []
    assert reader.received == 2


async def test_one_socket_serves_all_requests_of_one_ingress(
    receiver: Receiver, sender: Sender
) -> None:
    before = len(psutil.Process().net_connections())

    writers = [sender.open(receiver.open().reply_to) for _ in range(20)]
    reader = receiver.open()
    sender.open(reader.reply_to).send(Delta(0, "a"))
    await collect(reader, 1)

    assert len(writers) == 20
    assert len(psutil.Process().net_connections()) - before <= 2  # both ends of one connection


async def test_sockets_are_freed() -> None:
    gc.collect()
    process = psutil.Process()
    before = process.num_fds()

    await asyncio.gather(*(come_and_go() for _ in range(5)))
    gc.collect()

    assert process.num_fds() <= before


async def test_what_was_sent_before_the_end_still_arrives(receiver: Receiver) -> None:
    reader = receiver.open()
    sender = Sender()
    sender.open(reader.reply_to).send(Delta(0, "last words"))
    await asyncio.sleep(0)

    await asyncio.to_thread(sender.shut_down)

    assert await collect(reader, 1) == [Delta(0, "last words")]


async def test_a_reader_far_behind_gets_one_delta_for_each_choice(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.transport.token_channel._COALESCE_DELTAS", 5)
    reader = receiver.open()

    for number, delta in enumerate(
        [Delta(0, "a"), Delta(1, "x"), Delta(0, "b"), Delta(0, "", "stop"), Delta(1, "y")]
    ):
        reader.put(number, delta)

    assert reader.drain() == [Delta(0, "ab", "stop"), Delta(1, "xy")]
    assert reader.received == 5


@pytest.mark.parametrize("number", [0, 2, -1])
async def test_a_number_out_of_turn_is_a_gap(receiver: Receiver, number: int) -> None:
    reader = receiver.open()
    reader.put(0, Delta(0, "a"))

    reader.put(number, Delta(0, "?"))

    assert reader.has_gap
    assert reader.drain() == [Delta(0, "a")]


async def test_what_lies_in_the_inbox_is_not_waited_for(receiver: Receiver) -> None:
    reader = receiver.open()
    reader.put(0, Delta(0, "a"))

    async with asyncio.timeout(PATIENCE_S):
        await reader.wait()


async def test_waking_ends_a_wait_for_nothing(receiver: Receiver) -> None:
    reader = receiver.open()
    waiting = asyncio.ensure_future(reader.wait())
    await asyncio.sleep(0)

    reader.notify()
    reader.notify()
    async with asyncio.timeout(PATIENCE_S):
        await waiting

    assert reader.drain() == []


async def work_until_lost(writer: StreamWriter) -> None:
    """Send for ever; only a loss ends it."""
    with writer:
        while True:
            writer.send(Delta(0, "word"))
            await asyncio.sleep(0.01)


async def test_a_reader_that_goes_ends_the_work_for_it_and_no_other(receiver: Receiver) -> None:
    gone, sender = Receiver(), Sender()
    lost = [gone.open() for _ in range(3)]
    kept = receiver.open()
    works = [
        asyncio.ensure_future(work_until_lost(sender.open(each.reply_to))) for each in [*lost, kept]
    ]
    await asyncio.gather(*(collect(each, 1) for each in [*lost, kept]))

    gone.shut_down()
    done, _ = await asyncio.wait(works, timeout=1, return_when=asyncio.ALL_COMPLETED)

    assert done == set(works[:3])
    assert all(isinstance(work.exception(), ReplicaLostError) for work in done)
    assert (sender.peers, sender.writers) == (1, 1)
    assert (await collect(kept, kept.received + 1))[-1] == Delta(0, "word")
    works[3].cancel()
    await asyncio.wait(works)
    sender.shut_down()


async def test_a_reader_that_is_not_there_is_given_up(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.transport.token_channel._CONNECT_TIMEOUT_S", 0.05)

    with pytest.raises(ReplicaLostError):
        await asyncio.wait_for(work_until_lost(sender.open(ReplyTo(NOBODY, b"1" * 16))), PATIENCE_S)

    assert (sender.peers, sender.writers) == (0, 0)


async def test_a_reader_that_was_given_up_may_come_back(receiver: Receiver, sender: Sender) -> None:
    first = receiver.open()
    sender.open(first.reply_to).send(Delta(0, "before"))
    await collect(first, 1)
    next(iter(sender._peers.values()))._abort("is gone")

    second = receiver.open()
    sender.open(second.reply_to).send(Delta(0, "after"))

    assert await collect(second, 1) == [Delta(0, "after")]
    assert sender.peers == 1


async def test_a_frozen_reader_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its connection, but does not answer a heartbeat: as if its machine were gone."""
    monkeypatch.setattr("deployments.transport.token_channel._HEARTBEAT_MS", 50)
    monkeypatch.setattr("deployments.transport.token_channel._HEARTBEAT_TIMEOUT_MS", 100)
    sender = Sender()
    async with frozen_listener() as address:
        with pytest.raises(ReplicaLostError):
            await asyncio.wait_for(
                work_until_lost(sender.open(ReplyTo(address, b"1" * 16))), PATIENCE_S
            )
    sender.shut_down()


async def test_a_reader_that_stops_reading_is_given_up_and_blocks_nobody(
    receiver: Receiver, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.transport.token_channel._HIGH_WATER_MESSAGES", 3)
    monkeypatch.setattr("deployments.transport.token_channel._CONNECT_TIMEOUT_S", 1000.0)
    alive = receiver.open()
    work = asyncio.ensure_future(work_until_lost(sender.open(ReplyTo(NOBODY, b"1" * 16))))
    sender.open(alive.reply_to).send(Delta(0, "fine"))

    arrived = await collect(alive, 1)
    await asyncio.wait({work}, timeout=PATIENCE_S)

    assert arrived == [Delta(0, "fine")]
    assert isinstance(work.exception(), ReplicaLostError)
    assert sender.peers == 1


async def test_a_cancellation_stays_one_though_the_reader_is_lost_too(sender: Sender) -> None:
    writer = sender.open(ReplyTo(NOBODY, b"1" * 16))
    work = asyncio.ensure_future(work_until_lost(writer))
    await asyncio.sleep(0)

    work.cancel()
    writer.abort()
    await asyncio.wait({work})

    assert work.cancelled()
    assert sender.writers == 0


async def end_otherwise(writer: StreamWriter, end: Callable[[], Any]) -> None:
    """Work that is lost, and answers that with an end of its own."""
    with writer:
        asyncio.get_running_loop().call_soon(writer.abort)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            end()


async def test_an_error_of_the_work_stays_one_though_the_reader_is_lost_too(
    sender: Sender,
) -> None:
    with pytest.raises(ZeroDivisionError):
        await end_otherwise(sender.open(ReplyTo(NOBODY, b"1" * 16)), lambda: 1 / 0)


async def test_work_that_ends_while_the_reader_is_lost_does_not_look_done(sender: Sender) -> None:
    with pytest.raises(ReplicaLostError):
        await end_otherwise(sender.open(ReplyTo(NOBODY, b"1" * 16)), lambda: None)

    await asyncio.sleep(0)  # no cancellation is left over


async def test_a_second_address_serves_new_requests_and_the_first_the_old() -> None:
    receiver, sender = Receiver(), Sender()
    before = receiver.open()
    receiver.listen_at("127.0.0.2")
    after = receiver.open()

    for reader in (before, after):
        sender.open(reader.reply_to).send(Delta(0, "a"))

    assert await collect(before, 1) == await collect(after, 1) == [Delta(0, "a")]
    assert before.reply_to.address.startswith("tcp://127.0.0.1:")
    assert after.reply_to.address.startswith("tcp://127.0.0.2:")
    assert sender.peers == 2
    sender.shut_down()
    receiver.shut_down()


async def test_a_message_of_absurd_size_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, sender: Sender
) -> None:
    monkeypatch.setattr("deployments.transport.token_channel._MAX_MESSAGE_BYTES", 1000)
    receiver = Receiver()
    reader = receiver.open()
    writer = sender.open(reader.reply_to)
    writer.send(Delta(0, "x" * 1001))

    with pytest.raises(ReplicaLostError):
        await asyncio.wait_for(work_until_lost(writer), PATIENCE_S)

    assert reader.drain() == []
    receiver.shut_down()


async def test_a_flood_of_garbage_leaves_time_for_others(receiver: Receiver) -> None:
    """Reading is cut into portions, between which everything else runs."""
    context = zmq.Context()
    flood = context.socket(zmq.PUSH)
    flood.connect(receiver.open().reply_to.address)
    for _ in range(5000):
        flood.send(b"garbage")
    turns = 0

    async with asyncio.timeout(PATIENCE_S):
        while receiver.dropped < 5000:
            await asyncio.sleep(0)
            turns += 1

    assert turns >= 5000 / 100
    context.destroy(linger=0)


def test_a_socket_that_is_closed_while_it_is_told_of_something_does_not_hang():
    """In a process of its own: what hangs there holds no test up, and is ended."""
    run = subprocess.run(
        [sys.executable, "-c", _COME_AND_GO], cwd=ROOT, timeout=30, capture_output=True, check=True
    )

    assert run.stdout == b"done\n"


_COME_AND_GO = """
import asyncio, time, zmq
from deployments.transport.token_channel import ReplyTo, Sender
from deployments.transport.zmq_reader import Reader

close = Reader.close

def close_and_linger(reader):
    close(reader)
    time.sleep(0.005)  # the handshake is over, and would be told of

Reader.close = close_and_linger

async def come_and_go():
    context, sender = zmq.Context(), Sender()
    for _ in range(100):
        socket = context.socket(zmq.PULL)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        sender.open(ReplyTo(f"tcp://127.0.0.1:{port}", b"ticket"))
        (peer,) = sender._peers.values()
        peer.close()
        socket.close()

asyncio.run(come_and_go())
print("done")
"""
