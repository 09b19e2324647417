import asyncio
import threading
from collections.abc import Iterator

import pytest

from api.ports.tenancy import RequestContext
from deployments.engines.cancellable_thread import Cancellation, WorkCancelledError
from deployments.engines.tokenizer_thread import TokenizerThread

ANYONE = RequestContext()
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
    assert await thread.run(chars, report, ANYONE) == ("inline", True)


@pytest.mark.parametrize("chars", [2001, None])
async def test_long_text_is_tokenized_in_the_thread(
    thread: TokenizerThread[str], chars: int | None
) -> None:
    assert await thread.run(chars, report, ANYONE) == ("threaded", False)


@pytest.mark.parametrize("chars", [1, None])
async def test_error_of_the_tokenizer_is_raised(
    thread: TokenizerThread[str], chars: int | None
) -> None:
    def fail(tokenizer: str, stop: Cancellation) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await thread.run(chars, fail, ANYONE)


async def test_cancelled_call_stops_at_the_next_check(thread: TokenizerThread[str]) -> None:
    has_begun, may_continue, has_stopped = threading.Event(), threading.Event(), threading.Event()

    def tokenize(tokenizer: str, stop: Cancellation) -> None:
        has_begun.set()
        may_continue.wait(TIMEOUT_S)
        try:
            stop.check()
        except WorkCancelledError:
            has_stopped.set()

    running = asyncio.create_task(thread.run(None, tokenize, ANYONE))
    await asyncio.to_thread(has_begun.wait, TIMEOUT_S)
    running.cancel()
    await asyncio.wait({running})
    may_continue.set()

    assert await asyncio.to_thread(has_stopped.wait, TIMEOUT_S)


async def test_tenants_take_turns_in_the_thread(thread: TokenizerThread[str]) -> None:
    may_continue = threading.Event()
    order: list[str] = []

    async def tokenize(name: str) -> None:
        def work(tokenizer: str, stop: Cancellation) -> None:
            may_continue.wait(TIMEOUT_S)
            order.append(name)

        await thread.run(None, work, RequestContext(tenant=name[0]))

    running = [asyncio.create_task(tokenize(name)) for name in ("a0", "a1", "a2", "b0")]
    await asyncio.sleep(0)
    may_continue.set()
    await asyncio.gather(*running)

    assert order == ["a0", "a1", "b0", "a2"]
