"""Runs blocking work in a thread, and stops it when its caller is cancelled."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class WorkCancelledError(Exception):
    """Raised inside the thread once the caller no longer waits for the result."""


class Cancellation:
    """A flag that work checks between two steps."""

    def __init__(self) -> None:
        """Start as not cancelled."""
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop at its next check."""
        self._event.set()

    def check(self) -> None:
        """Return if the work should go on.

        Raises:
            WorkCancelledError: the caller no longer waits for the result.
        """
        if self._event.is_set():
            raise WorkCancelledError


class CancellableThread:
    """One thread that runs one piece of work at a time, first in, first out."""

    def __init__(self, name: str) -> None:
        """Start no thread before the first call of `run`."""
        self._executor = ThreadPoolExecutor(1, name)

    async def run(self, work: Callable[[Cancellation], T]) -> T:
        """Run `work` in the thread; cancelling this call asks the work to stop."""
        cancellation = Cancellation()

        def checked() -> T:
            cancellation.check()  # the caller may have been cancelled while the work was queued
            return work(cancellation)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, checked)
        finally:
            cancellation.cancel()

    def shut_down(self) -> None:
        """Drop queued work and refuse new work; the work under way runs to its end."""
        self._executor.shutdown(wait=False, cancel_futures=True)
