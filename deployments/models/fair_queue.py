"""Who is next where more is asked of a model than it does at once.

Higher classes come first; within a class tenants take turns, and each tenant's requests keep their
order. So a tenant that floods the model waits for itself: another one's request is the next but a
few, whatever the length of the queue. And the flood never has quite all places, so that the other
one need not even wait for one of its long answers to end.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from api.errors import OverloadedError
from api.ports.tenancy import PRIORITIES, PriorityClass

_REMEMBERED_S = 60.0
"""For so long after a tenant's last request places are kept free for its next one."""

_PLACES_TO_ONE_KEPT_FREE = 8


@dataclass(slots=True, eq=False)
class _Waiter:
    size: int
    turn: "asyncio.Future[None]"


_Line = OrderedDict[str, deque[_Waiter]]
"""Tenants of one class, the next one first, each with its requests in order."""


@dataclass(slots=True)
class _Lines:
    """All who wait."""

    by_class: dict[PriorityClass, _Line] = field(
        default_factory=lambda: {priority: OrderedDict() for priority in PRIORITIES}
    )

    def __len__(self) -> int:
        return sum(len(waiters) for line in self.by_class.values() for waiters in line.values())

    def count(self, tenant: str) -> int:
        return sum(len(line.get(tenant, ())) for line in self.by_class.values())

    def add(self, tenant: str, priority: PriorityClass, waiter: _Waiter) -> None:
        self.by_class[priority].setdefault(tenant, deque()).append(waiter)

    def discard(self, tenant: str, priority: PriorityClass, waiter: _Waiter) -> None:
        """Take one out, wherever it stands; it may be out already."""
        line = self.by_class[priority]
        if tenant in line and waiter in line[tenant]:
            line[tenant].remove(waiter)
            if not line[tenant]:
                del line[tenant]

    def pop(self, tenant: str, priority: PriorityClass) -> _Waiter:
        """Take the tenant's first one out; its next one comes after those of all others."""
        line = self.by_class[priority]
        waiter = line[tenant].popleft()
        line.move_to_end(tenant)
        if not line[tenant]:
            del line[tenant]
        return waiter

    def drop_last_of_the_longest(self) -> None:
        """Send away the last one of the tenant with most."""
        longest = max(
            (tenant for line in self.by_class.values() for tenant in line), key=self.count
        )
        priority = next(each for each in reversed(PRIORITIES) if longest in self.by_class[each])
        waiter = self.by_class[priority][longest][-1]
        self.discard(longest, priority, waiter)
        if not waiter.turn.done():
            waiter.turn.set_exception(_too_many())


def _too_many() -> OverloadedError:
    return OverloadedError("The model has more requests than it can take; try again.")


class FairQueue:
    """Places in an engine, and those who wait for one; on one event loop."""

    def __init__(
        self, capacity: int, max_waiting: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Let `capacity` sequences be worked on at once, and `max_waiting` requests wait."""
        self._capacity = capacity
        self._kept_free = capacity // _PLACES_TO_ONE_KEPT_FREE or min(1, capacity - 1)
        self._max_waiting = max_waiting
        self._clock = clock
        self._lines = _Lines()
        self._taken_by: dict[str, int] = {}
        self._seen_s: OrderedDict[str, float] = OrderedDict()
        self.taken = 0

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._lines)

    @asynccontextmanager
    async def turn(
        self, tenant: str, priority: PriorityClass = "normal", size: int = 1
    ) -> AsyncIterator[None]:
        """Wait for `size` places, and keep them for as long as the block lasts.

        Raises:
            OverloadedError: too many wait, and no other tenant has more of them.
        """
        size = min(size, self._capacity)  # who asks for more than there is gets all
        self._note(tenant)
        await self._wait(tenant, priority, size)
        try:
            yield
        finally:
            self._give_back(tenant, size)

    async def _wait(self, tenant: str, priority: PriorityClass, size: int) -> None:
        waiter = _Waiter(size, asyncio.get_running_loop().create_future())
        self._lines.add(tenant, priority, waiter)
        self._admit()
        if not waiter.turn.done() and len(self._lines) > self._max_waiting:
            self._lines.drop_last_of_the_longest()
        try:
            await waiter.turn
        except BaseException:  # cancelled, refused, or closed from outside, as gRPC's servers do
            self._lines.discard(tenant, priority, waiter)
            turn = waiter.turn
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_back(tenant, size)  # its turn had come in the same moment
            else:
                self._admit()  # those behind it may ask for less
            raise

    def _admit(self) -> None:
        """Give free places to those whose turn it is."""
        while (following := self._find_next()) is not None:
            tenant, priority = following
            waiter = self._lines.pop(tenant, priority)
            if waiter.turn.done():
                continue  # it is cancelled, and does not know yet
            self.taken += waiter.size
            self._taken_by[tenant] = self._taken_by.get(tenant, 0) + waiter.size
            waiter.turn.set_result(None)

    def _find_next(self) -> tuple[str, PriorityClass] | None:
        for priority, line in self._lines.by_class.items():
            for tenant, waiters in line.items():
                size = waiters[0].size
                if self.taken + size > self._capacity:
                    return None  # nobody overtakes it, however little they ask for
                if self._leaves_room(tenant, size):
                    return tenant, priority
        return None

    def _leaves_room(self, tenant: str, size: int) -> bool:
        """Whether enough is left for other tenants, if there are any these days."""
        own = self._taken_by.get(tenant, 0)
        if not own or own + size <= self._capacity - self._kept_free:
            return True
        latest = (seen_s for other, seen_s in reversed(self._seen_s.items()) if other != tenant)
        return self._clock() - next(latest, float("-inf")) > _REMEMBERED_S

    def _give_back(self, tenant: str, size: int) -> None:
        self._note(tenant)
        self.taken -= size
        self._taken_by[tenant] -= size
        if not self._taken_by[tenant]:
            del self._taken_by[tenant]
        self._admit()

    def _note(self, tenant: str) -> None:
        """The tenant is here; forget those who have not been for long."""
        now_s = self._seen_s[tenant] = self._clock()
        self._seen_s.move_to_end(tenant)
        while now_s - next(iter(self._seen_s.values())) > _REMEMBERED_S:
            self._seen_s.popitem(last=False)
