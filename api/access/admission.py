"""A request's way past the limits of its key, the same for every endpoint."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from api.ports.rate_limits import Limiter
from api.ports.tenancy import Key


@dataclass(slots=True)
class Permit:
    """A request's place among those that its key may have under way."""

    headers: dict[str, str] = field(default_factory=dict)
    """What the response says of the key's limits."""
    drawn: int = 0
    """How many images have reached the client: the others are not counted against the key."""


@asynccontextmanager
async def rate_limited(limiter: Limiter | None, key: Key, images: int = 0) -> AsyncIterator[Permit]:
    """Hold a place, and give it back whatever happens; a key without limits needs none.

    Raises:
        RateLimitError, InsufficientQuotaError, UnavailableError: as `Limiter.admit`.
    """
    if limiter is None or not key.limits.has_any:
        yield Permit()
        return
    admission = await limiter.admit(key, images)
    place = Permit(admission.headers)
    try:
        yield place
    finally:
        admission.release(images=place.drawn)
