import asyncio

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from api.errors import DeadlineExceededError, EngineError
from api.http.draining import Draining
from api.http.lifetime import deadline, while_connected


class SlowToCancel:
    """An answer that waits, and needs some time to end once it is cancelled."""

    def __init__(self, error_on_cancel: Exception | None = None) -> None:
        self.has_started = asyncio.Event()
        self.has_ended = False
        self._error = error_on_cancel

    async def run(self) -> None:
        self.has_started.set()
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            self.has_ended = True
            if self._error is not None:
                raise self._error


async def wait_forever() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def disconnect() -> Message:
    return {"type": "http.disconnect"}


async def test_result_is_returned() -> None:
    async def answer() -> int:
        return 7

    assert await while_connected(wait_forever, answer()) == 7


async def test_exception_is_raised() -> None:
    async def answer() -> None:
        raise EngineError("It broke.")

    with pytest.raises(EngineError):
        await while_connected(wait_forever, answer())


async def test_result_is_returned_if_the_client_disconnects_at_the_same_time() -> None:
    async def answer() -> int:
        return 7

    assert await while_connected(disconnect, answer()) == 7


async def test_answer_has_ended_when_disconnect_is_raised() -> None:
    answer = SlowToCancel()

    with pytest.raises(ClientDisconnect):
        await while_connected(disconnect, answer.run())

    assert answer.has_ended


async def test_messages_other_than_disconnect_do_not_cancel_the_answer() -> None:
    messages: list[Message] = [{"type": "http.request"}, {"type": "http.request"}]
    answer = SlowToCancel()

    async def receive() -> Message:
        return messages.pop() if messages else await disconnect()

    with pytest.raises(ClientDisconnect):
        await while_connected(receive, answer.run())

    assert messages == []


async def test_answer_has_ended_when_the_cancelled_caller_ends() -> None:
    answer = SlowToCancel()
    calling = asyncio.create_task(while_connected(wait_forever, answer.run()))
    await answer.has_started.wait()

    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling

    assert answer.has_ended


async def test_error_during_cancellation_is_swallowed(caplog: pytest.LogCaptureFixture) -> None:
    """The client is gone, and asyncio must not log that the exception was never retrieved."""
    answer = SlowToCancel(error_on_cancel=EngineError("It broke."))

    with pytest.raises(ClientDisconnect):
        await while_connected(disconnect, answer.run())

    assert answer.has_ended
    assert caplog.records == []


async def test_watch_for_a_disconnect_ends_with_the_answer() -> None:
    watched = asyncio.Event()

    async def receive() -> Message:
        try:
            return await wait_forever()
        finally:
            watched.set()

    async def answer() -> None:
        await asyncio.sleep(0)

    await while_connected(receive, answer())

    assert watched.is_set()


async def test_deadline_does_not_affect_a_quick_block() -> None:
    async with deadline(5, Draining()):
        await asyncio.sleep(0)


async def test_deadline_cancels_a_slow_block() -> None:
    with pytest.raises(DeadlineExceededError, match=r"within 0\.01 seconds"):
        async with deadline(0.01, Draining()):
            await asyncio.Event().wait()


async def test_deadline_passes_errors_of_the_block_on() -> None:
    with pytest.raises(EngineError):
        async with deadline(5, Draining()):
            raise EngineError("It broke.")


async def test_deadline_does_not_translate_other_timeouts() -> None:
    with pytest.raises(TimeoutError, match="of a socket"):
        async with deadline(5, Draining()):
            raise TimeoutError("of a socket")
