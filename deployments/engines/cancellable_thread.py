"""A thread for work that would block the event loop, which stops when its caller does."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class WorkCancelledError(Exception):
    """Raised inside the thread once nobody waits for the result any more."""


class Cancellation:
    """What the work asks, between two steps, to learn whether to go on."""

    def __init__(self) -> None:
        """Begin as not cancelled."""
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop at its next check."""
        self._event.set()

    def check(self) -> None:
        """Go on, or raise.

        Raises:
            WorkCancelledError: nobody waits for the result.
        """
        if self._event.is_set():
            raise WorkCancelledError


class Worker:
    """One thread, one piece of work at a time, in the order of asking."""

    def __init__(self, name: str) -> None:
        """Start no thread before it is needed."""
        self._executor = ThreadPoolExecutor(1, name)

    async def run(self, work: Callable[[Cancellation], T]) -> T:
        """Run `work` in the thread; if the caller is cancelled, the work is told to stop."""
        cancellation = Cancellation()

        def checked() -> T:
            cancellation.check()  # it may have waited behind others for long
            return work(cancellation)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, checked)
        finally:
            cancellation.cancel()

    def shut_down(self) -> None:
        """Take no more work."""
        self._executor.shutdown(wait=False, cancel_futures=True)
