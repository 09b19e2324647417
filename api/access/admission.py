"""Admission of requests by the limits of their key."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from api.ports.rate_limits import Limiter
from api.ports.tenancy import Key


@dataclass(slots=True)
class Permit:
    """Permission to run one request."""

    headers: dict[str, str] = field(default_factory=dict)
    """Response headers with the state of the key's limits."""
    delivered_images: int = 0
    """Images that were sent to the client; all others are released when the permit ends."""


@asynccontextmanager
async def rate_limited(
    limiter: Limiter | None, key: Key, images: int = 0, pixel_steps: int = 0
) -> AsyncIterator[Permit]:
    """Hold a permit while the block runs; a key without limits always gets one.

    Args:
        limiter: None switches limits off.
        key: the key that sends the request.
        images: how many images the request wants.
        pixel_steps: of all of them together.

    Raises:
        RateLimitError, InsufficientQuotaError, UnavailableError: as `Limiter.admit`.
    """
    if limiter is None or not key.limits.has_any:
        yield Permit()
        return
    admission = await limiter.admit(key, images, pixel_steps)
    permit = Permit(admission.headers)
    try:
        yield permit
    finally:
        admission.release(images=permit.delivered_images)
