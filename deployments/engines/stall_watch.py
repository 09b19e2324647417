"""Stall detection: work is outstanding, and for too long nothing of it has moved."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from api.errors import ReplicaLostError


class StallWatch:
    """Measures how long outstanding work has made no progress; an idle engine never stalls."""

    def __init__(self, timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start idle.

        Args:
            timeout_s: `check` fails after this long without progress; infinity never fails.
            clock: returns seconds, monotonic.
        """
        self._timeout_s = timeout_s
        self._clock = clock
        self._last_progress_s = clock()
        self._outstanding = 0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count work as outstanding inside the block; blocks may overlap."""
        if not self._outstanding:
            self.record_progress()
        self._outstanding += 1
        try:
            yield
        finally:
            self._outstanding -= 1

    def record_progress(self) -> None:
        """Record that some work has advanced; may be called from any thread."""
        self._last_progress_s = self._clock()

    def check(self) -> None:
        """Return if the engine is idle or makes progress.

        Raises:
            ReplicaLostError: work is outstanding, and `timeout_s` has passed without progress.
        """
        stalled_s = self._clock() - self._last_progress_s
        if self._outstanding and stalled_s > self._timeout_s:
            raise ReplicaLostError(f"The engine has made no progress for {stalled_s:.0f} seconds.")
