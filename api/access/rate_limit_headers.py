"""How the limits of a key are told to clients: headers and errors like OpenAI's."""

import math

from api.errors import InsufficientQuotaError, RateLimitError
from api.ports.rate_limits import LimitExceeded, LimitName, RateLimitStatus, Window

_NAMES: dict[LimitName, str] = {
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "images": "images per minute",
    "concurrent": "concurrent requests",
    "day": "tokens per day",
    "month": "tokens per month",
}

_RENEWALS: dict[LimitName, str] = {
    "day": "at 00:00 UTC",
    "month": "on the first of the month at 00:00 UTC",
}
"""The quotas, and when they begin anew."""


def to_headers(standing: RateLimitStatus) -> dict[str, str]:
    """The `x-ratelimit-…` headers of those limits that there are."""
    return {
        **_window_headers("requests", standing.requests),
        **_window_headers("tokens", standing.tokens),
    }


def to_error(refusal: LimitExceeded) -> RateLimitError:
    """The error to raise; a RateLimitError, or an InsufficientQuotaError if no minute will help."""
    name = _NAMES[refusal.limited]
    counts = f"limit {refusal.limit}, used {refusal.used}, requested {refusal.asked}."
    error: RateLimitError
    if renewal := _RENEWALS.get(refusal.limited):
        error = InsufficientQuotaError(
            f"You exceeded your current quota of {name}: {counts} It is renewed {renewal}."
        )
    elif refusal.retry_after_s is None:
        error = RateLimitError(
            f"Request too large for {name}: limit {refusal.limit}, requested {refusal.asked}. "
            "It must be made smaller to be served."
        )
    else:
        wait_ms = max(_to_ms(refusal.retry_after_s), 1)
        error = RateLimitError(
            f"Rate limit reached for {name}: {counts} Please try again in {_to_duration(wait_ms)}."
        )
        error.retry_after_ms = wait_ms
    error.limit_headers = to_headers(refusal.standing)
    return error


def _window_headers(name: str, window: Window | None) -> dict[str, str]:
    if window is None:
        return {}
    return {
        f"x-ratelimit-limit-{name}": str(window.limit),
        f"x-ratelimit-remaining-{name}": str(window.remaining),
        f"x-ratelimit-reset-{name}": _to_duration(_to_ms(window.reset_s)),
    }


def _to_ms(seconds: float) -> int:
    """Rounded up, as too early is too early, but not for what floats add in their last digits."""
    return math.ceil(round(seconds * 1000, 3))


def _to_duration(milliseconds: int) -> str:
    """Like OpenAI: `0s`, `12ms`, `1.5s`, `6m0s`."""
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest_ms = divmod(milliseconds, 60_000)
    seconds = f"{rest_ms / 1000:g}s"
    return f"{minutes}m{seconds}" if minutes else seconds
