"""What Serve runs, as the ledger sends it; without a ledger, as the ingress replicas see it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from deployments.discovery import unpack_details
from deployments.ingress.shared_look import SharedLook
from deployments.ledger.protocol import ServeDetails

_MAX_AGE_S = 6.0
"""The ledger looks every 2 s; a killed one is back in 5 s."""


class PushedDetails:
    """The latest details of one ingress replica."""

    def __init__(
        self,
        look: SharedLook,
        *,
        max_age_s: float = _MAX_AGE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with nothing pushed.

        Args:
            look: finds the details where the ledger does not send them.
            max_age_s: how long details are used after the ledger was heard of last.
            clock: returns seconds.
        """
        self._look = look
        self._max_age_s = max_age_s
        self._clock = clock
        self._pushed: Mapping[str, Any] | None = None
        self._latest: Mapping[str, Any] | None = None
        """What the ledger has sent, or what was looked up since."""
        self._heard_s = 0.0
        self._has_changed = asyncio.Event()

    def update(self, message: ServeDetails) -> None:
        """Take what the ledger has sent."""
        self._heard_s = self._clock()
        if message.packed is not None:
            self._pushed = unpack_details(message.packed)
            self._has_changed.set()
        if self._pushed is not None:
            self._latest = self._pushed
            self._look.stop_following()

    async def fetch(self) -> Mapping[str, Any]:
        """Return the details, looked up if the ledger is silent.

        Raises:
            Exception: Serve's controller cannot be asked.
        """
        is_silent = self._clock() - self._heard_s >= self._max_age_s
        if self._pushed is None or is_silent:
            self._latest = await self._look.fetch() or self._latest
        return await self.latest()

    async def latest(self) -> Mapping[str, Any]:
        """Return the details that are known, without a look.

        Raises:
            LookupError: none are known yet.
        """
        if self._latest is None:
            raise LookupError("it is not known yet what Serve runs")
        return self._latest

    async def wait_for_change(self, timeout_s: float) -> None:
        """Return when the ledger has sent other details, or after `timeout_s` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._has_changed.wait()
        self._has_changed.clear()
