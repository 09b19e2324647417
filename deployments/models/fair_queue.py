"""Fair queue in front of an engine: which request gets the next free slot.

Higher priority classes come first. Within a class tenants alternate, and each tenant's requests
stay in order. A tenant that floods the model therefore only delays itself: another tenant's request
is among the next few, however long the queue. One slot in eight is reserved for other tenants that
were active in the last minute, so their first request need not wait for a long answer to end.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api.errors import OverloadedError
from api.ports.tenancy import PriorityClass
from deployments.engines.round_robin import RoundRobin

_ACTIVE_S = 60.0
"""How long after its last request a tenant counts as active."""

_SLOTS_PER_RESERVED_SLOT = 8


@dataclass(slots=True, eq=False)
class _Waiter:
    tenant: str
    size: int
    admitted: "asyncio.Future[None]"


def _too_many() -> OverloadedError:
    return OverloadedError("The model has more requests than it can take; try again.")


class FairQueue:
    """The slots of an engine and the requests that wait for one, on one event loop."""

    def __init__(
        self, capacity: int, max_waiting: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Manage `capacity` slots, with at most `max_waiting` requests waiting.

        Args:
            capacity: sequences that the engine works on at once.
            max_waiting: requests.
            clock: returns seconds.
        """
        self._capacity = capacity
        self._reserved = capacity // _SLOTS_PER_RESERVED_SLOT or min(1, capacity - 1)
        self.max_waiting = max_waiting
        self._clock = clock
        self._waiters: RoundRobin[_Waiter] = RoundRobin()
        self._used_by: dict[str, int] = {}
        self._last_seen_s: OrderedDict[str, float] = OrderedDict()
        self.used = 0
        """Slots in use."""

    @property
    def waiting(self) -> int:
        """Number of waiting requests."""
        return len(self._waiters)

    @asynccontextmanager
    async def acquire(
        self,
        tenant: str,
        priority: PriorityClass = "normal",
        size: int = 1,
        on_waiting: Callable[[bool], None] = lambda _: None,
    ) -> AsyncIterator[None]:
        """Wait for `size` slots and hold them until the block ends.

        Args:
            tenant: requests of different tenants take turns.
            priority: higher classes come first.
            size: number of slots.
            on_waiting: called with True if the slots are not free, and with False once they are.

        Raises:
            OverloadedError: too many requests wait, and no other tenant has more of them.
        """
        size = min(size, self._capacity)  # a larger request gets the whole engine
        self._mark_active(tenant)
        await self._wait(tenant, priority, size, on_waiting)
        try:
            yield
        finally:
            self._release(tenant, size)

    async def _wait(
        self, tenant: str, priority: PriorityClass, size: int, on_waiting: Callable[[bool], None]
    ) -> None:
        waiter = _Waiter(tenant, size, asyncio.get_running_loop().create_future())
        self._waiters.add(waiter, priority, tenant)
        self._admit()
        admitted = waiter.admitted
        if not admitted.done() and len(self._waiters) > self.max_waiting:
            self._reject_last_of_the_longest()
        try:
            if not admitted.done():
                on_waiting(True)
                await admitted
                on_waiting(False)
            else:
                admitted.result()
        except BaseException:  # cancelled, rejected, or closed from outside as gRPC's servers do
            self._waiters.discard(waiter)
            if admitted.done() and not admitted.cancelled() and admitted.exception() is None:
                self._release(tenant, size)  # admitted and cancelled in the same tick
            else:
                self._admit()  # requests behind this one may need fewer slots
            raise

    def _reject_last_of_the_longest(self) -> None:
        """Reject the last request of the tenant with the most waiting requests."""
        waiter = self._waiters.last_of_the_longest()
        self._waiters.discard(waiter)
        if not waiter.admitted.done():
            waiter.admitted.set_exception(_too_many())

    def _admit(self) -> None:
        """Hand free slots to the next requests."""
        while (waiter := self._find_next()) is not None:
            self._waiters.rotate(waiter)  # the tenant's next request comes after the others'
            self._waiters.discard(waiter)
            if waiter.admitted.done():
                continue  # cancelled, but its task has not run since
            self.used += waiter.size
            self._used_by[waiter.tenant] = self._used_by.get(waiter.tenant, 0) + waiter.size
            waiter.admitted.set_result(None)

    def _find_next(self) -> _Waiter | None:
        for waiter in self._waiters.heads():
            if self.used + waiter.size > self._capacity:
                return None  # smaller requests must not overtake: a large one would starve
            if self._leaves_reserve(waiter.tenant, waiter.size):
                return waiter
        return None

    def _leaves_reserve(self, tenant: str, size: int) -> bool:
        """Whether `size` more slots leave the reserve free, if another tenant is active."""
        own = self._used_by.get(tenant, 0)
        if not own or own + size <= self._capacity - self._reserved:
            return True
        others = (at_s for other, at_s in reversed(self._last_seen_s.items()) if other != tenant)
        return self._clock() - next(others, float("-inf")) > _ACTIVE_S

    def _release(self, tenant: str, size: int) -> None:
        self._mark_active(tenant)
        self.used -= size
        self._used_by[tenant] -= size
        if not self._used_by[tenant]:
            del self._used_by[tenant]
        self._admit()

    def _mark_active(self, tenant: str) -> None:
        """Note the time of a tenant's request, and forget tenants that are no longer active."""
        now_s = self._last_seen_s[tenant] = self._clock()
        self._last_seen_s.move_to_end(tenant)
        while now_s - next(iter(self._last_seen_s.values())) > _ACTIVE_S:
            self._last_seen_s.popitem(last=False)
