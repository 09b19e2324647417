"""Whose turn it is, where the next piece of work is chosen again and again."""

from collections import OrderedDict
from typing import Generic, TypeVar

from api.ports.tenancy import PRIORITIES, PriorityClass

T = TypeVar("T")


class RoundRobin(Generic[T]):
    """Members in turn: higher classes first, then tenant by tenant, then member by member."""

    def __init__(self) -> None:
        """Start empty."""
        self._classes: dict[PriorityClass, OrderedDict[str, OrderedDict[T, None]]] = {
            priority: OrderedDict() for priority in PRIORITIES
        }
        self._places: dict[T, tuple[PriorityClass, str]] = {}

    def __len__(self) -> int:
        """How many members there are."""
        return len(self._places)

    def add(self, member: T, priority: PriorityClass, tenant: str) -> None:
        """Add a member behind the others of its tenant."""
        self._places[member] = priority, tenant
        self._classes[priority].setdefault(tenant, OrderedDict())[member] = None

    def discard(self, member: T) -> None:
        """Remove a member if it is there."""
        if (place := self._places.pop(member, None)) is None:
            return
        priority, tenant = place
        tenants = self._classes[priority]
        del tenants[tenant][member]
        if not tenants[tenant]:
            del tenants[tenant]

    def next(self) -> T:
        """Return the member whose turn it is, and move it behind the others of its class.

        Raises:
            StopIteration: there are no members.
        """
        tenants = next(filter(None, self._classes.values()))
        tenant, members = next(iter(tenants.items()))
        member = next(iter(members))
        members.move_to_end(member)
        tenants.move_to_end(tenant)
        return member
