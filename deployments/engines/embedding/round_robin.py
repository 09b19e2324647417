"""Whose turn it is, where the next piece of work is chosen again and again."""

from collections import OrderedDict
from typing import Generic, TypeVar

from api.ports.tenancy import PRIORITIES, PriorityClass

T = TypeVar("T")


class Rotation(Generic[T]):
    """Higher classes first; within a class tenants take turns, and so do a tenant's own ones."""

    def __init__(self) -> None:
        """Begin with nobody."""
        self._classes: dict[PriorityClass, OrderedDict[str, OrderedDict[T, None]]] = {
            priority: OrderedDict() for priority in PRIORITIES
        }
        self._places: dict[T, tuple[PriorityClass, str]] = {}

    def __len__(self) -> int:
        """How many take turns."""
        return len(self._places)

    def add(self, member: T, priority: PriorityClass, tenant: str) -> None:
        """Let it come last."""
        self._places[member] = priority, tenant
        self._classes[priority].setdefault(tenant, OrderedDict())[member] = None

    def discard(self, member: T) -> None:
        """Take it out, if it is in."""
        if (place := self._places.pop(member, None)) is None:
            return
        priority, tenant = place
        line = self._classes[priority]
        del line[tenant][member]
        if not line[tenant]:
            del line[tenant]

    def next(self) -> T:
        """Whose turn it is now; all others of its class come before its next one."""
        line = next(filter(None, self._classes.values()))
        tenant, members = next(iter(line.items()))
        member = next(iter(members))
        members.move_to_end(member)
        line.move_to_end(tenant)
        return member
