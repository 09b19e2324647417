"""The ledger as the HTTP API's `Limiter`."""

from collections.abc import Callable

from api.access.rate_limit_headers import to_headers
from api.ports.rate_limits import Amounts
from api.ports.tenancy import Key
from deployments.ledger.client import HeldReservation, LedgerClient


class LedgerAdmission:
    """A request that the ledger has admitted."""

    def __init__(self, ledger: LedgerClient, reservation: HeldReservation) -> None:
        """Settle `reservation` with `ledger` when the request ends."""
        self._ledger = ledger
        self._reservation = reservation

    @property
    def headers(self) -> dict[str, str]:
        """Rate-limit headers, as of the time when the request was admitted."""
        return to_headers(self._reservation.status)

    def release(self, images: int = 0) -> None:
        """End the request and count `images` images; the request itself stays counted."""
        self._ledger.settle(self._reservation, Amounts(requests=1, images=images))


class LedgerLimiter:
    """Asks the ledger about every request of a key with limits."""

    def __init__(self, get_ledger: Callable[[], LedgerClient]) -> None:
        """Use the client that `get_ledger` returns; it is called with every request."""
        self._get_ledger = get_ledger

    async def admit(self, key: Key, images: int = 0) -> LedgerAdmission:
        """Reserve one concurrent request and `images` images; raises as `Limiter.admit`."""
        ledger = self._get_ledger()
        amounts = Amounts(requests=1, images=images, concurrent=1)
        return LedgerAdmission(ledger, await ledger.reserve(key.id, amounts))
