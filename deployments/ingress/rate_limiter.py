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
        reserved = self._reservation.reservation.amounts
        pixel_steps = reserved.pixel_steps * images // max(reserved.images, 1)
        used = Amounts(requests=1, images=images, pixel_steps=pixel_steps)
        self._ledger.settle(self._reservation, used)


class LedgerLimiter:
    """Asks the ledger about every request of a key with limits."""

    def __init__(self, get_ledger: Callable[[], LedgerClient]) -> None:
        """Use the client that `get_ledger` returns; it is called with every request."""
        self._get_ledger = get_ledger

    async def admit(self, key: Key, images: int = 0, pixel_steps: int = 0) -> LedgerAdmission:
        """Reserve one concurrent request, and its images; raises as `Limiter.admit`."""
        ledger = self._get_ledger()
        if key.limits.pixel_steps_per_minute is None:
            pixel_steps = 0  # a ledger of an earlier version does not know them
        amounts = Amounts(requests=1, images=images, concurrent=1, pixel_steps=pixel_steps)
        return LedgerAdmission(ledger, await ledger.reserve(key.id, amounts))
