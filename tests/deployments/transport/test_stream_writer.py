"""`StreamWriter`: what it records, and how a lost reader ends the task that writes."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from api.errors import ReplicaLostError
from api.ports.stream import TextDelta
from deployments.transport.token_channel import Sender, StreamWriter
from deployments.transport.token_messages import ReplyTo
from tests.helpers.token_channel import NO_LISTENER, send_until_lost


@pytest.fixture
async def writer(sender: Sender) -> StreamWriter:
    """A writer to an address that nothing listens on."""
    return sender.open(ReplyTo(NO_LISTENER, b"1" * 16))


async def test_writer_records_the_count_the_first_time_and_the_first_finish_reason(
    writer: StreamWriter,
) -> None:
    before = (writer.sent, writer.first_s, writer.finish_reason)
    start_s = time.monotonic()
    writer.send(TextDelta(0, "a"))
    end_s = time.monotonic()
    writer.send(TextDelta(1, "", "length"))
    writer.send(TextDelta(0, "", "stop"))

    assert before == (0, None, None)
    assert writer.first_s is not None
    assert start_s <= writer.first_s <= end_s
    assert (writer.sent, writer.finish_reason) == (3, "length")


async def test_cancellation_stays_one_if_the_reader_is_lost_too(
    sender: Sender, writer: StreamWriter
) -> None:
    sending = asyncio.ensure_future(send_until_lost(writer))
    await asyncio.sleep(0)

    sending.cancel()
    writer.abort()
    await asyncio.wait({sending})

    assert sending.cancelled()
    assert sender.writers == 0


async def end_on_abort(writer: StreamWriter, end: Callable[[], Any]) -> None:
    """Abort a block that handles its cancellation by `end`."""
    with writer:
        asyncio.get_running_loop().call_soon(writer.abort)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            end()


async def test_error_of_the_block_stays_one_if_the_reader_is_lost_too(
    writer: StreamWriter,
) -> None:
    with pytest.raises(ZeroDivisionError):
        await end_on_abort(writer, lambda: 1 / 0)


async def test_block_that_ends_while_the_reader_is_lost_raises(writer: StreamWriter) -> None:
    with pytest.raises(ReplicaLostError):
        await end_on_abort(writer, lambda: None)

    await asyncio.sleep(0)  # raises if a cancellation is left over
