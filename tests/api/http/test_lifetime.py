import asyncio

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from api.errors import DeadlineExceededError, EngineError
from api.http.lifetime import deadline, while_connected
from api.settings import Limits


class Work:
    """A coroutine that waits, and takes its time to stop."""

    def __init__(self, error_on_stop: Exception | None = None) -> None:
        self.has_begun = asyncio.Event()
        self.has_stopped = False
        self._error = error_on_stop

    async def run(self) -> None:
        self.has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            self.has_stopped = True
            if self._error is not None:
                raise self._error


async def stay() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def leave() -> Message:
    return {"type": "http.disconnect"}


async def test_result_is_returned() -> None:
    async def work() -> int:
        return 7

    assert await while_connected(stay, work()) == 7


async def test_exception_is_raised() -> None:
    async def work() -> None:
        raise EngineError("It broke.")

    with pytest.raises(EngineError):
        await while_connected(stay, work())


async def test_result_is_returned_if_the_client_disconnects_at_the_same_time() -> None:
    async def work() -> int:
        return 7

    assert await while_connected(leave, work()) == 7


async def test_answer_has_ended_when_disconnect_is_raised() -> None:
    work = Work()

    with pytest.raises(ClientDisconnect):
        await while_connected(leave, work.run())

    assert work.has_stopped


async def test_messages_other_than_disconnect_do_not_cancel_the_answer() -> None:
    messages: list[Message] = [{"type": "http.request"}, {"type": "http.request"}]
    work = Work()

    async def receive() -> Message:
        return messages.pop() if messages else await leave()

    with pytest.raises(ClientDisconnect):
        await while_connected(receive, work.run())

    assert messages == []


async def test_answer_has_ended_when_the_cancelled_caller_ends() -> None:
    work = Work()
    calling = asyncio.create_task(while_connected(stay, work.run()))
    await work.has_begun.wait()

    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling

    assert work.has_stopped


async def test_error_during_cancellation_is_swallowed(caplog: pytest.LogCaptureFixture) -> None:
    """The client is gone, and asyncio must not log that the exception was never retrieved."""
    work = Work(error_on_stop=EngineError("It broke."))

    with pytest.raises(ClientDisconnect):
        await while_connected(leave, work.run())

    assert work.has_stopped
    assert caplog.records == []


async def test_watch_for_a_disconnect_ends_with_the_answer() -> None:
    watched = asyncio.Event()

    async def receive() -> Message:
        try:
            return await stay()
        finally:
            watched.set()

    async def work() -> None:
        await asyncio.sleep(0)

    await while_connected(receive, work())

    assert watched.is_set()


async def test_deadline_does_not_affect_a_quick_block() -> None:
    async with deadline(Limits(request_timeout_s=5)):
        await asyncio.sleep(0)


async def test_deadline_cancels_a_slow_block() -> None:
    with pytest.raises(DeadlineExceededError, match=r"within 0\.01 seconds"):
        async with deadline(Limits(request_timeout_s=0.01)):
            await asyncio.sleep(5)


async def test_deadline_passes_errors_of_the_block_on() -> None:
    with pytest.raises(EngineError):
        async with deadline(Limits()):
            raise EngineError("It broke.")


async def test_deadline_does_not_translate_other_timeouts() -> None:
    with pytest.raises(TimeoutError, match="of a socket"):
        async with deadline(Limits()):
            raise TimeoutError("of a socket")
