import asyncio
import threading
from collections.abc import Iterator

import pytest

from deployments.engines.cancellable_thread import Cancellation, WorkCancelledError
from deployments.engines.tokenizer_thread import TokenizerThread

TIMEOUT_S = 5.0


@pytest.fixture
def thread() -> Iterator[TokenizerThread[str]]:
    thread = TokenizerThread("inline", "threaded")
    yield thread
    thread.shut_down()


def report(tokenizer: str, stop: Cancellation) -> tuple[str, bool]:
    return tokenizer, threading.current_thread() is threading.main_thread()


@pytest.mark.parametrize("chars", [0, 1, 2000])
async def test_short_text_is_tokenized_on_the_event_loop(
    thread: TokenizerThread[str], chars: int
) -> None:
    assert await thread.run(chars, report) == ("inline", True)


@pytest.mark.parametrize("chars", [2001, None])
async def test_long_text_is_tokenized_in_the_thread(
    thread: TokenizerThread[str], chars: int | None
) -> None:
    assert await thread.run(chars, report) == ("threaded", False)


@pytest.mark.parametrize("chars", [1, None])
async def test_error_of_the_tokenizer_is_raised(
    thread: TokenizerThread[str], chars: int | None
) -> None:
    def fail(tokenizer: str, stop: Cancellation) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await thread.run(chars, fail)


async def test_cancelled_call_stops_at_the_next_check(thread: TokenizerThread[str]) -> None:
    has_begun, may_continue, has_stopped = threading.Event(), threading.Event(), threading.Event()

    def tokenize(tokenizer: str, stop: Cancellation) -> None:
        has_begun.set()
        may_continue.wait(TIMEOUT_S)
        try:
            stop.check()
        except WorkCancelledError:
            has_stopped.set()

    running = asyncio.create_task(thread.run(None, tokenize))
    await asyncio.to_thread(has_begun.wait, TIMEOUT_S)
    running.cancel()
    await asyncio.wait({running})
    may_continue.set()

    assert await asyncio.to_thread(has_stopped.wait, TIMEOUT_S)
