"""How long a request may run: until its client disconnects or its deadline passes."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from api.errors import DeadlineExceededError
from api.settings import Limits

T = TypeVar("T")


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` for as long as the client stays; its result or exception is passed on.

    Raises:
        ClientDisconnect: the client left; `work` was cancelled and has ended.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        leaving.cancel()
        working.cancel()
        # Whoever is told that the work has stopped may rely on it.
        await asyncio.wait({working, leaving})
        if not working.cancelled():
            working.exception()  # marks it as seen, should it have failed while being cancelled


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def deadline(limits: Limits) -> AsyncIterator[None]:
    """Bound the time that a model may take.

    Raises:
        DeadlineExceededError: it took longer than `limits.request_timeout_s`.
    """
    timer = asyncio.timeout(limits.request_timeout_s)
    try:
        async with timer:
            yield
    except TimeoutError:
        if not timer.expired():
            raise  # somebody else's, such as a socket's
        raise DeadlineExceededError(
            f"The model did not answer within {limits.request_timeout_s:g} seconds."
        ) from None
