"""Both ends in one process, over the loopback address, as on a cluster of one node."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec
import psutil
import pytest
import zmq

from api.backends import Delta
from api.errors import ReplicaLost
from deployments.token_channel import Inbox, Outlet, Receiver, ReplyTo, Sender

PATIENCE_S = 5.0


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver("127.0.0.1")
    yield receiver
    await receiver.shut_down()


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

    def next_message(self) -> list[tuple[bytes, int, str, str | None]]:
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


async def collect(inbox: Inbox, count: int) -> list[Delta]:
    """What arrives, once so much has."""
    async with asyncio.timeout(PATIENCE_S):
        while inbox.received < count:
            inbox.news.clear()
            await inbox.news.wait()
    return list(inbox.take())


def send_all(outlet: Outlet, deltas: Sequence[Delta]) -> None:
    """All within one tick."""
    for delta in deltas:
        outlet.send(delta)


async def send_in_turn(outlet: Outlet, texts: Sequence[str]) -> None:
    """A tick for each."""
    for text in texts:
        outlet.send(Delta(0, text))
        await asyncio.sleep(0)


async def come_and_go() -> None:
    """One delta from a new sender to a new receiver, and both are gone."""
    receiver, sender = Receiver("127.0.0.1"), Sender()
    inbox = receiver.open()
    sender.open(inbox.reply_to).send(Delta(0, "a"))
    await collect(inbox, 1)
    sender.shut_down()
    await receiver.shut_down()


async def push(receiver: Receiver, message: bytes) -> None:
    """Send raw bytes to a receiver, and then prove that they have been read."""
    inbox = receiver.open()
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.connect(inbox.reply_to.address)
    socket.send(message)
    socket.send(msgspec.msgpack.encode([(inbox.reply_to.ticket, 0, "after", None)]))
    await collect(inbox, 1)
    receiver.close(inbox)
    context.destroy(linger=0)


async def test_deltas_arrive_in_order(receiver: Receiver, sender: Sender) -> None:
    inbox = receiver.open()
    outlet = sender.open(inbox.reply_to)
    sent = [Delta(number % 3, f"é\u2028\0😀{number}") for number in range(1000)]

    send_all(outlet, sent)

    assert await collect(inbox, 1000) == sent
    assert outlet.sent == inbox.received == 1000


async def test_order_holds_over_many_ticks(receiver: Receiver, sender: Sender) -> None:
    inbox = receiver.open()
    outlet = sender.open(inbox.reply_to)

    texts = [str(number) for number in range(100)]
    await send_in_turn(outlet, texts)

    assert [delta.text for delta in await collect(inbox, 100)] == texts


@pytest.mark.parametrize("reason", ["stop", "length", None])
async def test_finish_reason_arrives(receiver: Receiver, sender: Sender, reason: None) -> None:
    inbox = receiver.open()

    sender.open(inbox.reply_to).send(Delta(2, "", reason))

    assert await collect(inbox, 1) == [Delta(2, "", reason)]


async def test_many_requests_over_two_senders_do_not_mix(receiver: Receiver) -> None:
    first, second = Sender(), Sender()
    inboxes = [receiver.open() for _ in range(50)]
    outlets = [(first, second)[n % 2].open(inbox.reply_to) for n, inbox in enumerate(inboxes)]
    texts = [str(step) for step in range(20)]

    await asyncio.gather(
        *(
            send_in_turn(outlet, [f"{n}:{text}" for text in texts])
            for n, outlet in enumerate(outlets)
        )
    )
    arrived = [await collect(inbox, 20) for inbox in inboxes]
    first.shut_down()
    second.shut_down()

    assert [[delta.text for delta in deltas] for deltas in arrived] == [
        [f"{n}:{text}" for text in texts] for n in range(50)
    ]
    assert receiver.dropped == 0


async def test_tickets_are_128_bits_and_never_the_same(receiver: Receiver) -> None:
    tickets = {receiver.open().reply_to.ticket for _ in range(100)}

    assert len(tickets) == 100
    assert {len(ticket) for ticket in tickets} == {16}


async def test_deltas_of_one_tick_are_one_message(sender: Sender, tap: Tap) -> None:
    first = sender.open(ReplyTo(tap.address, b"1" * 16))
    second = sender.open(ReplyTo(tap.address, b"2" * 16))

    first.send(Delta(0, "a"))
    second.send(Delta(1, "b", "stop"))
    first.send(Delta(0, "c"))
    await asyncio.sleep(0)

    assert tap.next_message() == [
        (b"1" * 16, 0, "a", None),
        (b"2" * 16, 1, "b", "stop"),
        (b"1" * 16, 0, "c", None),
    ]
    assert not tap.has_more()


async def test_each_tick_is_a_message_of_its_own(sender: Sender, tap: Tap) -> None:
    outlet = sender.open(ReplyTo(tap.address, b"1" * 16))

    outlet.send(Delta(0, "a"))
    await asyncio.sleep(0)
    outlet.send(Delta(0, "b"))
    await asyncio.sleep(0)

    assert [tap.next_message(), tap.next_message()] == [
        [(b"1" * 16, 0, "a", None)],
        [(b"1" * 16, 0, "b", None)],
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
    outlet = sender.open(ReplyTo(tap.address, b"1" * 16))

    outlet.send(Delta(0, "\ud800"))
    await asyncio.sleep(0)
    outlet.send(Delta(0, "later"))
    await asyncio.sleep(0)

    assert tap.next_message() == [(b"1" * 16, 0, "later", None)]


async def test_unknown_ticket_is_dropped_and_counted(receiver: Receiver, sender: Sender) -> None:
    inbox = receiver.open()

    sender.open(ReplyTo(inbox.reply_to.address, b"?" * 16)).send(Delta(0, "lost"))
    sender.open(inbox.reply_to).send(Delta(0, "found"))

    assert await collect(inbox, 1) == [Delta(0, "found")]
    assert receiver.dropped == 1


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"garbage",
        b"\xff" * 100,
        msgspec.msgpack.encode({"ticket": b"1"}),
        msgspec.msgpack.encode([(b"1" * 16, "0", "a", None)]),
        msgspec.msgpack.encode([(b"1" * 16, 0, "a", "tired")]),
        msgspec.msgpack.encode([(b"1" * 16, 0)]),
        msgspec.msgpack.encode([(b"1" * 16, 0, "a", None)])[:-2],
        msgspec.msgpack.encode([(b"1" * 16, 0, b"\xff\xfe", None)]),
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
    assert (closed.received, closed.take()) == (0, ())


async def test_inbox_may_be_closed_twice(receiver: Receiver) -> None:
    inbox = receiver.open()

    receiver.close(inbox)
    receiver.close(inbox)

    assert len(receiver) == 0


async def test_receiver_counts_open_inboxes(receiver: Receiver) -> None:
    first, _ = receiver.open(), receiver.open()
    receiver.close(first)

    assert len(receiver) == 1


async def test_taking_empties_an_inbox(receiver: Receiver) -> None:
    inbox = receiver.open()
    inbox.put(Delta(0, "a"))
    inbox.put(Delta(0, "b"))

    assert inbox.take() == (Delta(0, "a"), Delta(0, "b"))
    assert inbox.take() == ()
    assert inbox.received == 2


async def test_one_socket_serves_all_requests_of_one_ingress(
    receiver: Receiver, sender: Sender
) -> None:
    before = len(psutil.Process().net_connections())

    outlets = [sender.open(receiver.open().reply_to) for _ in range(20)]
    inbox = receiver.open()
    sender.open(inbox.reply_to).send(Delta(0, "a"))
    await collect(inbox, 1)

    assert len(outlets) == 20
    assert len(psutil.Process().net_connections()) - before <= 2  # both ends of one connection


async def test_sockets_are_freed() -> None:
    gc.collect()
    process = psutil.Process()
    before = process.num_fds()

    await asyncio.gather(*(come_and_go() for _ in range(5)))
    gc.collect()

    assert process.num_fds() <= before


async def test_what_was_sent_before_the_end_still_arrives(receiver: Receiver) -> None:
    inbox = receiver.open()
    sender = Sender()
    sender.open(inbox.reply_to).send(Delta(0, "last words"))
    await asyncio.sleep(0)

    await asyncio.to_thread(sender.shut_down)

    assert await collect(inbox, 1) == [Delta(0, "last words")]


async def test_ingress_that_does_not_read_breaks_its_streams_alone(
    receiver: Receiver,
    sender: Sender,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "deployments")
    monkeypatch.setattr("deployments.token_channel._HIGH_WATER_MESSAGES", 1)
    gone = sender.open(ReplyTo("tcp://127.0.0.1:9", b"1" * 16))
    inbox = receiver.open()
    alive = sender.open(inbox.reply_to)

    gone.send(Delta(0, "kept by the socket"))
    await asyncio.sleep(0)
    gone.send(Delta(0, "too much"))
    await asyncio.sleep(0)
    with pytest.raises(ReplicaLost):
        gone.send(Delta(0, "refused"))
    alive.send(Delta(0, "fine"))

    assert await collect(inbox, 1) == [Delta(0, "fine")]
    assert "overflowed" in caplog.text
