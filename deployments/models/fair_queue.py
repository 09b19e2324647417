"""Fair queue in front of an engine: which request gets the next free slot.

Higher priority classes come first. Within a class tenants alternate, and each tenant's requests
stay in order. A tenant that floods the model therefore only delays itself: another tenant's request
is among the next few, however long the queue. One slot in eight is reserved for other tenants that
were active in the last minute, so their first request need not wait for a long answer to end.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from api.errors import OverloadedError
from api.ports.tenancy import PRIORITIES, PriorityClass

_ACTIVE_S = 60.0
"""How long after its last request a tenant counts as active."""

_SLOTS_PER_RESERVED_SLOT = 8


@dataclass(slots=True, eq=False)
class _Waiter:
    size: int
    admitted: "asyncio.Future[None]"


_ClassQueue = OrderedDict[str, deque[_Waiter]]
"""Tenants of one priority class in turn, the next one first, each with its requests in order."""


@dataclass(slots=True)
class _Waiters:
    """All waiting requests, by class and tenant."""

    by_class: dict[PriorityClass, _ClassQueue] = field(
        default_factory=lambda: {priority: OrderedDict() for priority in PRIORITIES}
    )

    def __len__(self) -> int:
        return sum(len(waiters) for queue in self.by_class.values() for waiters in queue.values())

    def count(self, tenant: str) -> int:
        return sum(len(queue.get(tenant, ())) for queue in self.by_class.values())

    def add(self, tenant: str, priority: PriorityClass, waiter: _Waiter) -> None:
        self.by_class[priority].setdefault(tenant, deque()).append(waiter)

    def discard(self, tenant: str, priority: PriorityClass, waiter: _Waiter) -> None:
        """Remove a waiter from any position; does nothing if it is already gone."""
        queue = self.by_class[priority]
        if tenant in queue and waiter in queue[tenant]:
            queue[tenant].remove(waiter)
            if not queue[tenant]:
                del queue[tenant]

    def pop(self, tenant: str, priority: PriorityClass) -> _Waiter:
        """Remove the tenant's first waiter, and move the tenant behind all others."""
        queue = self.by_class[priority]
        waiter = queue[tenant].popleft()
        queue.move_to_end(tenant)
        if not queue[tenant]:
            del queue[tenant]
        return waiter

    def reject_last_of_the_longest(self) -> None:
        """Reject the last request of the tenant with the most waiting requests."""
        longest = max(
            (tenant for queue in self.by_class.values() for tenant in queue), key=self.count
        )
        priority = next(each for each in reversed(PRIORITIES) if longest in self.by_class[each])
        waiter = self.by_class[priority][longest][-1]
        self.discard(longest, priority, waiter)
        if not waiter.admitted.done():
            waiter.admitted.set_exception(_too_many())


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
        self._max_waiting = max_waiting
        self._clock = clock
        self._waiters = _Waiters()
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
        self, tenant: str, priority: PriorityClass = "normal", size: int = 1
    ) -> AsyncIterator[None]:
        """Wait for `size` slots and hold them until the block ends.

        Raises:
            OverloadedError: too many requests wait, and no other tenant has more of them.
        """
        size = min(size, self._capacity)  # a larger request gets the whole engine
        self._mark_active(tenant)
        await self._wait(tenant, priority, size)
        try:
            yield
        finally:
            self._release(tenant, size)

    async def _wait(self, tenant: str, priority: PriorityClass, size: int) -> None:
        waiter = _Waiter(size, asyncio.get_running_loop().create_future())
        self._waiters.add(tenant, priority, waiter)
        self._admit()
        admitted = waiter.admitted
        if not admitted.done() and len(self._waiters) > self._max_waiting:
            self._waiters.reject_last_of_the_longest()
        try:
            await admitted
        except BaseException:  # cancelled, rejected, or closed from outside as gRPC's servers do
            self._waiters.discard(tenant, priority, waiter)
            if admitted.done() and not admitted.cancelled() and admitted.exception() is None:
                self._release(tenant, size)  # admitted and cancelled in the same tick
            else:
                self._admit()  # requests behind this one may need fewer slots
            raise

    def _admit(self) -> None:
        """Hand free slots to the next requests."""
        while (following := self._find_next()) is not None:
            tenant, priority = following
            waiter = self._waiters.pop(tenant, priority)
            if waiter.admitted.done():
                continue  # cancelled, but its task has not run since
            self.used += waiter.size
            self._used_by[tenant] = self._used_by.get(tenant, 0) + waiter.size
            waiter.admitted.set_result(None)

    def _find_next(self) -> tuple[str, PriorityClass] | None:
        for priority, queue in self._waiters.by_class.items():
            for tenant, waiters in queue.items():
                size = waiters[0].size
                if self.used + size > self._capacity:
                    return None  # smaller requests must not overtake: a large one would starve
                if self._leaves_reserve(tenant, size):
                    return tenant, priority
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
