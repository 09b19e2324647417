"""Runs a coroutine at once, without a task, until it has to wait.

Most writes to a client never wait. A task that wakes up for each of them costs more than the write.
Python has this for whole tasks since 3.12 (`asyncio.eager_task_factory`).
"""

from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any


def run_now(coroutine: Coroutine[Any, Any, None]) -> "Rest | None":
    """Run a coroutine on the event loop, outside a task, until it has to wait.

    Returns:
        What is left of it, which must be awaited; None if it has ended.

    Raises:
        Exception: what the coroutine raises.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return None
    return Rest(coroutine, awaited)


class Rest(Generator[Any, Any, None]):
    """The rest of a coroutine that waits; the task that awaits it goes on with it."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], awaited: Any) -> None:
        """Let the task wait first for what the coroutine waits for."""
        self._coroutine = coroutine
        self._awaited = [awaited]

    def __await__(self) -> "Rest":
        """Go on in the current task."""
        return self

    def send(self, value: Any) -> Any:
        """Return what to wait for next; the event loop calls this."""
        return self._awaited.pop() if self._awaited else self._coroutine.send(value)

    def throw(
        self,
        kind: Any,
        value: Any = None,
        traceback: TracebackType | None = None,
    ) -> Any:
        """Raise an error where the coroutine waits, such as the cancellation of the task."""
        return self._coroutine.throw(kind if value is None else value)

    def close(self) -> None:
        """End the coroutine where it waits."""
        self._coroutine.close()
