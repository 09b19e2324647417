"""`Sender`: its messages, its connections, and the peers that it gives up."""

import asyncio

import pytest

from api.errors import ReplicaLostError
from api.ports.stream import ImageProgress, TextDelta
from deployments.transport.peers import ChannelSettings
from deployments.transport.token_channel import Receiver, Sender
from deployments.transport.token_messages import ReplyTo
from tests.helpers.token_channel import (
    NO_LISTENER,
    TIMEOUT_S,
    UNMERGED,
    Tap,
    collect,
    frozen_listener,
    send_until_lost,
    until,
)

ID = b"1" * 16


async def test_deltas_of_one_tick_are_one_message(sender: Sender, tap: Tap) -> None:
    first = sender.open(ReplyTo(tap.address, ID))
    second = sender.open(ReplyTo(tap.address, b"2" * 16))

    first.send(TextDelta(0, "a"))
    second.send(TextDelta(1, "b", "stop"))
    first.send(TextDelta(0, "c"))
    await asyncio.sleep(0)

    assert tap.next_message() == [
        (0, ID, 0, [0, "a", None, None]),
        (0, b"2" * 16, 0, [1, "b", "stop", None]),
        (0, ID, 1, [0, "c", None, None]),
    ]
    assert not tap.has_more()


async def test_each_tick_is_a_message_of_its_own(sender: Sender, tap: Tap) -> None:
    writer = sender.open(ReplyTo(tap.address, ID))

    writer.send(TextDelta(0, "a"))
    await asyncio.sleep(0)
    writer.send(TextDelta(0, "b"))
    await asyncio.sleep(0)

    assert [tap.next_message(), tap.next_message()] == [
        [(0, ID, 0, [0, "a", None, None])],
        [(0, ID, 1, [0, "b", None, None])],
    ]
    assert not tap.has_more()


async def test_tick_without_deltas_sends_no_message(sender: Sender, tap: Tap) -> None:
    sender.open(ReplyTo(tap.address, ID))

    await asyncio.sleep(0)

    assert not tap.has_more()


async def test_unbatched_deltas_are_messages_of_their_own(sender: Sender, tap: Tap) -> None:
    text, image = sender.open(ReplyTo(tap.address, ID)), sender.open(ReplyTo(tap.address, ID))

    text.send(TextDelta(0, "a"))
    image.send_unbatched(ImageProgress(1, 20, b"png"))
    text.send(TextDelta(0, "b"))
    await asyncio.sleep(0)

    assert [tap.next_message() for _ in range(3)] == [
        [(0, ID, 0, [0, "a", None, None])],
        [(1, ID, 0, [1, 20, b"png"])],
        [(0, ID, 1, [0, "b", None, None])],
    ]


async def test_delta_that_cannot_be_encoded_does_not_affect_later_ones(
    sender: Sender, tap: Tap
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    writer = sender.open(ReplyTo(tap.address, ID))

    writer.send(TextDelta(0, "\ud800"))
    await asyncio.sleep(0)
    writer.send(TextDelta(0, "later"))
    await asyncio.sleep(0)

    assert tap.next_message() == [(0, ID, 1, [0, "later", None, None])]


async def test_pending_messages_are_sent_on_shut_down(receiver: Receiver) -> None:
    reader = receiver.open()
    sender = Sender()
    sender.open(reader.reply_to).send(TextDelta(0, "the last"))
    await asyncio.sleep(0)

    await asyncio.to_thread(sender.shut_down)

    assert await collect(reader, 1) == [TextDelta(0, "the last")]


async def test_lost_receiver_aborts_its_own_streams_only(receiver: Receiver) -> None:
    gone, sender = Receiver(settings=UNMERGED), Sender()
    lost = [gone.open() for _ in range(3)]
    kept = receiver.open()
    sending = [
        asyncio.ensure_future(send_until_lost(sender.open(each.reply_to))) for each in [*lost, kept]
    ]
    await asyncio.gather(*(collect(each, 1) for each in [*lost, kept]))

    gone.shut_down()
    done, _ = await asyncio.wait(sending[:3], timeout=TIMEOUT_S)

    assert all(isinstance(task.exception(), ReplicaLostError) for task in done)
    assert len(done) == 3
    assert not sending[3].done()
    assert (sender.peers, sender.writers) == (1, 1)
    assert (await collect(kept, kept.received + 1))[-1] == TextDelta(0, "word")
    sending[3].cancel()
    await asyncio.wait(sending)
    sender.shut_down()


async def test_receiver_that_does_not_answer_is_given_up() -> None:
    sender = Sender(ChannelSettings(connect_timeout_s=0.05))
    writer = sender.open(ReplyTo(NO_LISTENER, ID))

    with pytest.raises(ReplicaLostError):
        await asyncio.wait_for(send_until_lost(writer), TIMEOUT_S)

    assert (sender.peers, sender.writers) == (0, 0)
    sender.shut_down()


async def test_lost_receiver_that_comes_back_gets_new_streams(sender: Sender) -> None:
    first = Tap()
    sender.open(ReplyTo(first.address, ID)).send(TextDelta(0, "before"))
    await asyncio.sleep(0)
    first.next_message()
    first.close()
    await until(lambda: sender.peers == 0)

    second = Tap(first.path)
    sender.open(ReplyTo(second.address, b"2" * 16)).send(TextDelta(0, "after"))
    await asyncio.sleep(0)

    assert second.next_message() == [(0, b"2" * 16, 0, [0, "after", None, None])]
    assert sender.peers == 1
    second.close()


async def test_frozen_receiver_is_given_up() -> None:
    """It keeps the connection but answers no heartbeat, as if its machine had died."""
    sender = Sender(ChannelSettings(heartbeat_ms=50, heartbeat_timeout_ms=100))
    async with frozen_listener() as address:
        with pytest.raises(ReplicaLostError):
            await asyncio.wait_for(send_until_lost(sender.open(ReplyTo(address, ID))), TIMEOUT_S)
    sender.shut_down()


async def test_receiver_that_does_not_read_is_given_up_and_does_not_block_others(
    receiver: Receiver,
) -> None:
    sender = Sender(ChannelSettings(high_water_messages=3, connect_timeout_s=1000.0))
    reading = receiver.open()
    blocked = asyncio.ensure_future(send_until_lost(sender.open(ReplyTo(NO_LISTENER, ID))))
    sender.open(reading.reply_to).send(TextDelta(0, "fine"))

    arrived = await collect(reading, 1)
    await asyncio.wait({blocked}, timeout=TIMEOUT_S)

    assert arrived == [TextDelta(0, "fine")]
    assert isinstance(blocked.exception(), ReplicaLostError)
    assert sender.peers == 1
    sender.shut_down()
