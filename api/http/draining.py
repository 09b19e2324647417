"""Stops the service without cutting its requests: no new ones, and time for those under way."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from api.errors import ServiceStoppingError


class Draining:
    """The requests under way at the model endpoints, and whether more may come."""

    def __init__(self) -> None:
        """Take requests."""
        self._is_begun = False
        self._is_over = False
        self._requests = 0
        self._timers: set[asyncio.Timeout] = set()

    def __len__(self) -> int:
        """Number of requests under way."""
        return self._requests

    def begin(self) -> None:
        """Refuse new requests from now on."""
        self._is_begun = True

    def end(self) -> None:
        """Fail the requests that are still under way. Safe to repeat."""
        self._is_begun = self._is_over = True
        for timer in list(self._timers):
            _expire(timer)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request during the block.

        Raises:
            ServiceStoppingError: no new requests are taken.
        """
        if self._is_begun:
            raise _stopping()
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    @contextmanager
    def ending(self, timer: asyncio.Timeout) -> Iterator[None]:
        """Let `end` expire the timer, which has been entered, during the block."""
        self._timers.add(timer)
        if self._is_over:
            _expire(timer)
        try:
            yield
        finally:
            self._timers.discard(timer)

    def to_error(self) -> ServiceStoppingError | None:
        """Why `end` has expired the timers; None if it has not been called."""
        return _stopping() if self._is_over else None


def _expire(timer: asyncio.Timeout) -> None:
    if not timer.expired():
        timer.reschedule(asyncio.get_running_loop().time())


def _stopping() -> ServiceStoppingError:
    return ServiceStoppingError("The service is being stopped; try again.")
