"""Bounds the lifetime of a request: its client may disconnect, and its deadline may pass."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from api.errors import DeadlineExceededError
from api.http.draining import Draining

T = TypeVar("T")


async def while_connected(receive: Receive, answer: Coroutine[Any, Any, T]) -> T:
    """Run `answer` while the client is connected, and return its result.

    Raises:
        ClientDisconnect: the client disconnected; `answer` was cancelled and has ended.
    """
    answering = asyncio.ensure_future(answer)
    disconnecting = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({answering, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise ClientDisconnect
    finally:
        disconnecting.cancel()
        answering.cancel()
        # Wait until the tasks have really ended before returning.
        await asyncio.wait({answering, disconnecting})
        if not answering.cancelled():
            answering.exception()  # asyncio warns of exceptions that are never retrieved


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def deadline(timeout_s: float, draining: Draining) -> AsyncIterator[None]:
    """Limit the time of the block to `timeout_s`, or to the end of the service.

    Raises:
        DeadlineExceededError: the block took longer and was cancelled.
        ServiceStoppingError: the service stops, and the block was cancelled.
    """
    timer = asyncio.timeout(timeout_s)
    try:
        async with timer:
            with draining.ending(timer):
                yield
    except TimeoutError:
        if not timer.expired():
            raise  # not this timer's, but a socket's, for example
        raise draining.to_error() or DeadlineExceededError(
            f"The model did not answer within {timeout_s:g} seconds."
        ) from None
