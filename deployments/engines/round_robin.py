"""Who is next: the order in which requests of several tenants and priority classes take turns."""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

from api.ports.tenancy import PRIORITIES, PriorityClass

T = TypeVar("T")


class RoundRobin(Generic[T]):
    """Members in turn: higher classes first; within a class tenants alternate.

    The members of one tenant keep their order until `rotate` moves one of them.
    """

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
        """Remove a member if it is there; its tenant keeps its turn."""
        if (place := self._places.pop(member, None)) is None:
            return
        priority, tenant = place
        tenants = self._classes[priority]
        del tenants[tenant][member]
        if not tenants[tenant]:
            del tenants[tenant]

    def heads(self) -> Iterator[T]:
        """Yield the first member of each tenant, in the order of their turns."""
        for tenants in self._classes.values():
            for members in tenants.values():
                yield next(iter(members))

    def rotate(self, member: T) -> None:
        """Move a member behind its tenant's others, and the tenant behind others of its class."""
        priority, tenant = self._places[member]
        self._classes[priority][tenant].move_to_end(member)
        self._classes[priority].move_to_end(tenant)

    def next(self) -> T:
        """Return the member whose turn it is, and rotate it.

        Raises:
            StopIteration: there are no members.
        """
        member = next(self.heads())
        self.rotate(member)
        return member

    def last_of_the_longest(self) -> T:
        """Return the last member of the tenant with the most members, from its lowest class.

        Raises:
            ValueError: there are no members.
        """
        counts: Counter[str] = Counter()
        for tenants in self._classes.values():
            counts.update({tenant: len(members) for tenant, members in tenants.items()})
        longest = max(counts, key=counts.__getitem__)
        queues = [tenants[longest] for tenants in self._classes.values() if longest in tenants]
        return next(reversed(queues[-1]))
