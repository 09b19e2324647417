"""The port to the rate limits and quotas of API keys."""

from dataclasses import dataclass
from typing import Literal, Protocol

from api.ports.tenancy import Key

LimitName = Literal["requests", "tokens", "images", "pixel_steps", "concurrent", "day", "month"]
"""Four windows of a minute, the requests in flight, and two token quotas."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """What one request counts against the limits of its key."""

    requests: int = 0
    tokens: int = 0
    images: int = 0
    concurrent: int = 0
    """Requests in flight."""
    pixel_steps: int = 0
    """Width × height × denoising steps of all images."""


@dataclass(frozen=True, slots=True)
class Window:
    """The state of one limit per minute."""

    limit: int
    remaining: int
    reset_s: float
    """Seconds until all of the limit is available again."""


@dataclass(frozen=True, slots=True)
class RateLimitStatus:
    """The limits that response headers report; None where the key has no such limit."""

    requests: Window | None = None
    tokens: Window | None = None


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """The limit that a request would have exceeded."""

    limit_name: LimitName
    limit: int
    used: int
    requested: int
    retry_after_s: float | None
    """None if waiting does not help: the request exceeds the whole limit, or a quota is used up."""
    status: RateLimitStatus


class Admission(Protocol):
    """One admitted request."""

    @property
    def headers(self) -> dict[str, str]:
        """Rate-limit headers for the response."""

    def release(self, images: int = 0) -> None:
        """End the request and release what it did not use. Safe to repeat.

        Args:
            images: how many were generated; the others and their pixel-steps no longer count.
        """


class Limiter(Protocol):
    """Enforces the limits of requests, images and concurrency.

    The model's replica counts tokens, because their number is only known there.
    """

    async def admit(self, key: Key, images: int = 0, pixel_steps: int = 0) -> Admission:
        """Admit one request.

        Args:
            key: the key that sends it.
            images: how many it wants.
            pixel_steps: of all of them together.

        Raises:
            RateLimitError: a limit is reached.
            InsufficientQuotaError: a quota is used up.
            UnavailableError: the limits cannot be checked at the moment.
        """
