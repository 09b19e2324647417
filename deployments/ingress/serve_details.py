"""What Serve runs, as the ledger sends it; without a ledger, as Serve's controller says."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from deployments.discovery import unpack_details
from deployments.ledger.protocol import ServeDetails

_MAX_AGE_S = 6.0
"""The ledger looks every 2 s; a killed one is back in 5 s."""


class PushedDetails:
    """The latest details of one ingress replica."""

    def __init__(
        self,
        ask_controller: Callable[[], Awaitable[Mapping[str, Any]]],
        *,
        max_age_s: float = _MAX_AGE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with nothing pushed.

        Args:
            ask_controller: fetches the details where the ledger does not send them.
            max_age_s: how long details are used after the ledger was heard of last.
            clock: returns seconds.
        """
        self._ask_controller = ask_controller
        self._max_age_s = max_age_s
        self._clock = clock
        self._details: Mapping[str, Any] | None = None
        self._heard_s = 0.0
        self._has_changed = asyncio.Event()

    def update(self, message: ServeDetails) -> None:
        """Take what the ledger has sent."""
        self._heard_s = self._clock()
        if message.packed is not None:
            self._details = unpack_details(message.packed)
            self._has_changed.set()

    async def fetch(self) -> Mapping[str, Any]:
        """Return the details; raises what `ask_controller` raises."""
        if self._details is not None and self._clock() - self._heard_s < self._max_age_s:
            return self._details
        return await self._ask_controller()

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when the ledger has sent other details, or after `timeout_s` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._has_changed.wait()
        self._has_changed.clear()
