"""The port to the limits of keys, and how OpenAI words them in headers."""

from dataclasses import dataclass
from typing import Literal, Protocol

from api.ports.tenancy import Key

LimitName = Literal["requests", "tokens", "images", "concurrent", "day", "month"]
"""What can be refused: four that come back within a minute, and the two quotas."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """What one request takes of its key's limits; `slots` are concurrent requests."""

    requests: int = 0
    tokens: int = 0
    images: int = 0
    slots: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """How one limit stands."""

    limit: int
    remaining: int
    reset_s: float
    """Seconds until all of it is there again."""


@dataclass(frozen=True, slots=True)
class RateLimitStatus:
    """How the limits of a key stand; None where there is no limit."""

    requests: Window | None = None
    tokens: Window | None = None


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """Which limit a request would have broken."""

    limited: LimitName
    limit: int
    used: int
    asked: int
    retry_after_s: float | None
    """None if waiting does not help: more is asked for than there is, or a quota is used up."""
    standing: RateLimitStatus


class Admission(Protocol):
    """A request's place among those that its key may have under way."""

    @property
    def headers(self) -> dict[str, str]:
        """What the response says of the key's limits."""

    def release(self, images: int = 0) -> None:
        """Give the place back, and what was reserved of images but not drawn. Safe to repeat."""


class Limiter(Protocol):
    """Keeps keys within their limits of requests, images and concurrency.

    Tokens are counted where they are known, by the replica of the model.
    """

    async def admit(self, key: Key, images: int = 0) -> Admission:
        """Take a place.

        Raises:
            RateLimitError: the key has none left.
            InsufficientQuotaError: its quota is used up.
            UnavailableError: nobody can say.
        """
