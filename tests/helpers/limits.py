"""Reads the limits of keys through the port, and tells grants from refusals."""

from api.ports.rate_limits import Amounts, LimitExceeded, RateLimitStatus
from deployments.ledger.limits.store import LimitStore

NOTHING_OPEN = {"sessions": 0, "reservations": 0, "concurrent": 0, "open_tokens": 0}
"""The stats of a store at rest."""


async def read_status(store: LimitStore, key_id: str = "k") -> RateLimitStatus:
    """Reserve nothing and settle it: the status is as before."""
    status = await store.reserve("probe", "probe", key_id, Amounts())
    await store.settle("probe", Amounts())
    assert isinstance(status, RateLimitStatus)
    return status


def exceeded_in(outcome: RateLimitStatus | LimitExceeded) -> LimitExceeded:
    assert isinstance(outcome, LimitExceeded)
    return outcome


def is_granted(outcome: RateLimitStatus | LimitExceeded) -> bool:
    return isinstance(outcome, RateLimitStatus)
