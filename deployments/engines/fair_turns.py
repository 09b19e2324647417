"""Turns at one resource: one caller at a time, and tenants alternate."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from api.ports.tenancy import RequestContext
from deployments.engines.round_robin import RoundRobin


class FairTurns:
    """Lets one caller work at a time; who waits is served by class, then tenants in turn."""

    def __init__(self) -> None:
        """Start with nobody working."""
        self._waiting: RoundRobin[asyncio.Future[None]] = RoundRobin()
        self._is_taken = False

    @asynccontextmanager
    async def turn(self, context: RequestContext) -> AsyncIterator[None]:
        """Wait for a turn and keep it for the length of the block.

        Cancelling a call that waits gives up its place.
        """
        await self.acquire(context)
        try:
            yield
        finally:
            self.release()

    async def acquire(self, context: RequestContext) -> None:
        """Wait for a turn, which lasts until `release` is called."""
        if not self._is_taken:
            self._is_taken = True
            return
        place = asyncio.get_running_loop().create_future()
        self._waiting.add(place, context.priority, context.tenant)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self.release()  # it was given the turn in the moment in which it was cancelled
            self._waiting.discard(place)
            raise

    def release(self) -> None:
        """End a turn: give it to the next caller, whose tenant goes behind the others."""
        if not len(self._waiting):
            self._is_taken = False
            return
        place = self._waiting.next()
        self._waiting.discard(place)
        place.set_result(None)
