"""Both ends together in one process, as on a cluster of one node."""

import asyncio
import gc
from typing import Any

import psutil
import pytest

from api.ports.stream import Extra, ImageProgress, TextDelta
from deployments.transport.token_channel import Receiver, Sender
from tests.helpers.token_channel import (
    UNMERGED,
    collect,
    send_in_one_tick,
    send_one_per_tick,
    until,
)


async def send_and_shut_down() -> None:
    """Send one delta from a new sender to a new receiver, and shut both down."""
    receiver, sender = Receiver(UNMERGED), Sender()
    reader = receiver.open()
    sender.open(reader.reply_to).send(TextDelta(0, "a"))
    await collect(reader, 1)
    sender.shut_down()
    receiver.shut_down()


async def test_deltas_arrive_in_order(receiver: Receiver, sender: Sender) -> None:
    reader = receiver.open()
    writer = sender.open(reader.reply_to)
    sent = [TextDelta(number % 3, f"é\u2028\0😀{number}") for number in range(1000)]

    send_in_one_tick(writer, sent)

    assert await collect(reader, 1000) == sent
    assert writer.sent == reader.received == 1000


async def test_deltas_of_many_ticks_arrive_in_order(receiver: Receiver, sender: Sender) -> None:
    reader = receiver.open()
    writer = sender.open(reader.reply_to)

    texts = [str(number) for number in range(100)]
    await send_one_per_tick(writer, texts)

    assert await collect(reader, 100) == [TextDelta(0, text) for text in texts]


async def test_waiting_for_a_turn_is_told_without_a_delta(
    receiver: Receiver, sender: Sender
) -> None:
    reader = receiver.open()
    writer = sender.open(reader.reply_to)

    writer.send_waiting(True)
    writer.send(TextDelta(0, "a"))
    await until(lambda: reader.received == 1)
    was_waiting = reader.is_waiting
    writer.send_waiting(False)
    writer.send(TextDelta(0, "b"))
    await until(lambda: reader.received == 2)

    assert (was_waiting, reader.is_waiting) == (True, False)
    assert writer.sent == 2


@pytest.mark.parametrize("reason", ["stop", "length", None])
async def test_finish_reason_arrives(receiver: Receiver, sender: Sender, reason: Any) -> None:
    reader = receiver.open()

    sender.open(reader.reply_to).send(TextDelta(2, "", reason))

    assert await collect(reader, 1) == [TextDelta(2, "", reason)]


async def test_extra_arrives(receiver: Receiver, sender: Sender) -> None:
    reader = receiver.open()
    delta = TextDelta(0, "a", None, Extra(reasoning="hm"))

    sender.open(reader.reply_to).send(delta)

    assert await collect(reader, 1) == [delta]


async def test_progress_of_images_arrives(receiver: Receiver, sender: Sender) -> None:
    reader = receiver.open()
    writer = sender.open(reader.reply_to)
    progress = [ImageProgress(1, 2), ImageProgress(2, 2, bytes(100_000))]

    writer.send_unbatched(progress[0])
    writer.send_unbatched(progress[1])

    assert await collect(reader, 2) == progress
    assert writer.sent == 2
    assert writer.first_s is not None


async def test_streams_over_two_senders_do_not_mix(receiver: Receiver) -> None:
    senders = (Sender(), Sender())
    readers = [receiver.open() for _ in range(50)]
    writers = [senders[n % 2].open(reader.reply_to) for n, reader in enumerate(readers)]
    texts = [[f"{n}:{step}" for step in range(20)] for n in range(50)]

    await asyncio.gather(*map(send_one_per_tick, writers, texts))
    arrived = [await collect(reader, 20) for reader in readers]
    senders[0].shut_down()
    senders[1].shut_down()

    assert arrived == [[TextDelta(0, text) for text in each] for each in texts]
    assert receiver.dropped == 0


async def test_one_connection_serves_all_streams_to_one_receiver(
    receiver: Receiver, sender: Sender
) -> None:
    before = len(psutil.Process().net_connections())

    writers = [sender.open(receiver.open().reply_to) for _ in range(20)]
    reader = receiver.open()
    sender.open(reader.reply_to).send(TextDelta(0, "a"))
    await collect(reader, 1)

    assert len(writers) == 20
    assert len(psutil.Process().net_connections()) - before <= 2  # both ends of one connection


async def test_shutting_down_frees_all_file_descriptors() -> None:
    gc.collect()
    process = psutil.Process()
    before = process.num_fds()

    await asyncio.gather(*(send_and_shut_down() for _ in range(5)))
    gc.collect()

    assert process.num_fds() <= before
