"""The ledger as the HTTP face wants it: `Limiter`."""

from collections.abc import Callable

from api.access.rate_limit_headers import to_headers
from api.ports.rate_limits import Amounts
from api.ports.tenancy import Key
from deployments.ledger.client import HeldReservation, LedgerClient


class LedgerAdmission:
    """A place that the ledger has granted."""

    def __init__(self, link: LedgerClient, held: HeldReservation) -> None:
        """Give it back over `link`."""
        self._link = link
        self._held = held

    @property
    def headers(self) -> dict[str, str]:
        """How the key's limits stood when the place was granted."""
        return to_headers(self._held.standing)

    def release(self, images: int = 0) -> None:
        """Give the place back; the request itself stays counted."""
        self._link.settle(self._held, Amounts(requests=1, images=images))


class LedgerLimiter:
    """Asks the ledger for every request of a key with limits."""

    def __init__(self, find: Callable[[], LedgerClient | None]) -> None:
        """Ask over the link that `find` gives, which is there before the first request is."""
        self._find = find

    async def admit(self, key: Key, images: int = 0) -> LedgerAdmission:
        """Take a place."""
        link = self._find()
        assert link is not None, "requests come after the start"
        held = await link.reserve(key.id, Amounts(requests=1, images=images, slots=1))
        return LedgerAdmission(link, held)
