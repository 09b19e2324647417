"""`Receiver`: what it opens, what it drops, and where it listens."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest
import zmq
from zmq.utils.monitor import parse_monitor_message

from api.errors import ReplicaLostError
from api.ports.stream import TextDelta
from deployments.transport.curve import make_curve_client
from deployments.transport.peers import ChannelSettings
from deployments.transport.token_channel import Receiver, Sender
from deployments.transport.token_messages import ReplyTo, StreamDelta, TextItem
from tests.helpers.token_channel import (
    TIMEOUT_S,
    collect,
    count_turns_until,
    from_another_node,
    send_until_lost,
)

ID = b"1" * 16
HANDSHAKE_FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


async def push(receiver: Receiver, message: bytes) -> None:
    """Send raw bytes to a receiver, and wait until they have been read."""
    reader = receiver.open()
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.connect(reader.reply_to.address)
    socket.send(message)
    socket.send(msgspec.msgpack.encode([(0, reader.reply_to.stream_id, 0, (0, "after"))]))
    await collect(reader, 1)
    receiver.close(reader)
    context.destroy(linger=0)


async def test_stream_ids_are_unique_and_have_128_bits(receiver: Receiver) -> None:
    ids = {receiver.open().reply_to.stream_id for _ in range(100)}

    assert len(ids) == 100
    assert {len(each) for each in ids} == {16}


async def test_receiver_counts_open_streams(receiver: Receiver) -> None:
    first, _ = receiver.open(), receiver.open()
    receiver.close(first)

    assert len(receiver) == 1


async def test_closing_a_reader_twice_is_safe(receiver: Receiver) -> None:
    reader = receiver.open()

    receiver.close(reader)
    receiver.close(reader)

    assert len(receiver) == 0


async def test_delta_with_an_unknown_id_is_dropped_and_counted(
    receiver: Receiver, sender: Sender
) -> None:
    reader = receiver.open()

    sender.open(ReplyTo(reader.reply_to.address, b"?" * 16)).send(TextDelta(0, "lost"))
    sender.open(reader.reply_to).send(TextDelta(0, "found"))

    assert await collect(reader, 1) == [TextDelta(0, "found")]
    assert receiver.dropped == 1


async def test_delta_for_a_closed_reader_is_dropped_and_counted(
    receiver: Receiver, sender: Sender
) -> None:
    closed, other = receiver.open(), receiver.open()
    receiver.close(closed)

    sender.open(closed.reply_to).send(TextDelta(0, "late"))
    sender.open(other.reply_to).send(TextDelta(0, "in time"))
    await collect(other, 1)

    assert receiver.dropped == 1
    assert closed.received == 0


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"garbage",
        b"\xff" * 100,
        msgspec.msgpack.encode({"stream_id": b"1"}),
        msgspec.msgpack.encode([(ID, 0, (0, "a", None))]),
        msgspec.msgpack.encode([(9, ID, 0, (0, "a", None))]),
        msgspec.msgpack.encode([(0, ID, 0, ("0", "a", None))]),
        msgspec.msgpack.encode([(0, ID, 0, (0, "a", "tired"))]),
        msgspec.msgpack.encode([(0, ID, 0)]),
        msgspec.msgpack.encode([(0, ID, 0, (0, "a", None, None))])[:-2],
        msgspec.msgpack.encode([(0, ID, 0, (0, b"\xff\xfe", None))]),
        msgspec.msgpack.encode([(1, ID, 0, "no progress")]),
        b"\x91\x94\x00\xc4\x01a\x00\x93\x00\xa1\xff\xc0",  # text that is not UTF-8
    ],
    ids=repr,
)
async def test_garbage_is_dropped_and_counted(receiver: Receiver, message: bytes) -> None:
    await push(receiver, message)

    assert receiver.dropped == 1


async def test_message_with_deep_nesting_is_dropped_and_counted(receiver: Receiver) -> None:
    item = b"\x95\x00\xc4\x01a\x00\x93\x00\xa1a\xc0"  # a text, and a member that is skipped

    await push(receiver, b"\x91" + item + b"\x91" * 100_000 + b"\x90")

    assert receiver.dropped == 1


async def test_message_without_deltas_is_ignored(receiver: Receiver) -> None:
    await push(receiver, msgspec.msgpack.encode([]))

    assert receiver.dropped == 0


async def test_deltas_of_all_messages_of_a_turn_are_passed_on_together(receiver: Receiver) -> None:
    batches: list[list[StreamDelta]] = []
    reader = receiver.open()
    reader.start(lambda deltas: batches.append(list(deltas)))
    stream_id = reader.reply_to.stream_id

    for number, text in enumerate("ab"):
        receiver._dispatch([TextItem(stream_id, number, TextDelta(0, text))])
    before = list(batches)
    receiver._flush()

    assert (before, batches) == ([], [[TextDelta(0, "a"), TextDelta(0, "b")]])


async def test_consumer_that_fails_harms_no_other_stream_of_its_message(
    receiver: Receiver, sender: Sender
) -> None:
    def fail(_: Sequence[StreamDelta]) -> None:
        raise ConnectionResetError

    failing, other = receiver.open(), receiver.open()
    failing.start(fail)

    sender.open(failing.reply_to).send(TextDelta(0, "a"))
    sender.open(other.reply_to).send(TextDelta(0, "b"))

    assert await collect(other, 1) == [TextDelta(0, "b")]
    with pytest.raises(ConnectionResetError):
        await failing.catch_up()


async def test_second_address_serves_new_streams_and_the_first_the_old() -> None:
    receiver, sender = Receiver(), Sender()
    before = receiver.open()
    receiver.listen_at("127.0.0.2")
    after = receiver.open()

    sender.open(before.reply_to).send(TextDelta(0, "a"))
    sender.open(after.reply_to).send(TextDelta(0, "a"))

    assert await collect(before, 1) == await collect(after, 1) == [TextDelta(0, "a")]
    assert after.reply_to.address.startswith(f"{before.reply_to.address} tcp://127.0.0.2:")
    assert sender.peers == 2
    sender.shut_down()
    receiver.shut_down()


async def test_sender_on_another_node_uses_the_port(sender: Sender) -> None:
    receiver = Receiver()
    receiver.listen_at("127.0.0.2")
    reader = receiver.open()
    reply_to = replace(reader.reply_to, address=from_another_node(reader.reply_to.address))

    sender.open(reply_to).send(TextDelta(0, "a"))

    assert await collect(reader, 1) == [TextDelta(0, "a")]
    receiver.shut_down()


@pytest.mark.parametrize("key", [None, "other"])
async def test_who_was_not_told_the_address_reaches_nothing(key: str | None) -> None:
    """Neither without a key, nor with the key of another receiver."""
    receiver, other = Receiver(settings=ChannelSettings(handshake_ms=100)), Receiver()
    receiver.listen_at("127.0.0.2")
    other.listen_at("127.0.0.3")
    reader = receiver.open()
    url = reader.reply_to.address.split(" ")[1].partition("#")[0]
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    if key is not None:
        make_curve_client(socket, other.open().reply_to.address.partition("#")[2].encode())
    events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | HANDSHAKE_FAILURES
    monitor = socket.get_monitor_socket(events)
    socket.connect(url)
    socket.send(b"\x91\x95\xc4\x10" + reader.reply_to.stream_id + b"\x00\x00\xa1x\xc0")

    async with asyncio.timeout(TIMEOUT_S):
        event = await asyncio.to_thread(monitor.recv_multipart)

    assert parse_monitor_message(event)["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED
    assert (reader.received, receiver.dropped) == (0, 0)
    socket.disable_monitor()
    context.destroy(linger=0)
    other.shut_down()
    receiver.shut_down()


async def test_connection_that_says_nothing_is_closed() -> None:
    receiver = Receiver(settings=ChannelSettings(handshake_ms=100))
    receiver.listen_at("127.0.0.2")
    port = int(receiver.open().reply_to.address.partition("#")[0].rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.2", port)

    async with asyncio.timeout(TIMEOUT_S):
        greeting = await reader.read()

    assert greeting[:1] == b"\xff"
    writer.close()
    receiver.shut_down()


async def test_sender_of_an_oversized_message_is_disconnected(sender: Sender) -> None:
    receiver = Receiver(settings=ChannelSettings(max_message_bytes=1000))
    reader = receiver.open()
    writer = sender.open(reader.reply_to)
    writer.send(TextDelta(0, "x" * 1001))

    with pytest.raises(ReplicaLostError):
        await asyncio.wait_for(send_until_lost(writer), TIMEOUT_S)

    assert reader.received == 0
    receiver.shut_down()


async def test_flood_of_garbage_does_not_block_the_event_loop(receiver: Receiver) -> None:
    context = zmq.Context()
    flood = context.socket(zmq.PUSH)
    flood.connect(receiver.open().reply_to.address)
    for _ in range(5000):
        flood.send(b"garbage")

    turns = await count_turns_until(lambda: receiver.dropped == 5000)

    assert turns >= 5000 / 100
    context.destroy(linger=0)
