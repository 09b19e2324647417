"""Looks at what Serve runs, for all ingress replicas.

One look costs Serve's controller milliseconds, and 0.1 to 0.3 s with 200 models: eight ingress
replicas that looked for themselves every 2 s would keep its only thread busy.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from deployments.discovery import pack_details

logger = logging.getLogger(__name__)

_INTERVAL_S = 2.0
_MOST_OF_THE_CONTROLLER = 0.1
"""Share of the controller's time that the looks may take."""


class ServeWatch:
    """Looks again and again, and publishes what it has seen."""

    def __init__(
        self,
        fetch_details: Callable[[], Awaitable[Mapping[str, Any]]],
        publish: Callable[[bytes], None],
        *,
        interval_s: float = _INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Publish by `publish`.

        Args:
            fetch_details: returns Serve's details; may raise.
            publish: gets them packed, after every look.
            interval_s: pause between two looks; longer ones if a look takes more than a tenth.
            clock: returns seconds.
            pause: waits for as many seconds.
        """
        self._fetch_details = fetch_details
        self._publish = publish
        self._interval_s = interval_s
        self._clock = clock
        self._pause = pause
        self._latest: Mapping[str, Any] | None = None

    async def latest(self) -> Mapping[str, Any]:
        """Return what was seen last.

        Raises:
            LookupError: nothing has been seen yet.
        """
        if self._latest is None:
            raise LookupError("Serve has not been looked at yet")
        return self._latest

    async def run(self) -> None:
        """Look for ever."""
        while True:
            began_s = self._clock()
            try:
                self._latest = await self._fetch_details()
                self._publish(pack_details(self._latest))
            except Exception:  # the controller restarts now and then
                logger.warning("Serve could not be asked what it runs; trying again", exc_info=True)
            took_s = self._clock() - began_s
            await self._pause(max(self._interval_s, took_s / _MOST_OF_THE_CONTROLLER))
