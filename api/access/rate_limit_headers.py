"""Response headers and errors of rate limits, in OpenAI's format."""

import math

from api.errors import InsufficientQuotaError, RateLimitError
from api.ports.rate_limits import LimitExceeded, LimitName, RateLimitStatus, Window

_TITLES: dict[LimitName, str] = {
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "images": "images per minute",
    "pixel_steps": "pixel-steps per minute",
    "concurrent": "concurrent requests",
    "day": "tokens per day",
    "month": "tokens per month",
}

_QUOTA_RENEWALS: dict[LimitName, str] = {
    "day": "at 00:00 UTC",
    "month": "on the first of the month at 00:00 UTC",
}


def to_headers(status: RateLimitStatus) -> dict[str, str]:
    """Build the `x-ratelimit-…` headers of the limits that the key has."""
    return {
        **_to_window_headers("requests", status.requests),
        **_to_window_headers("tokens", status.tokens),
    }


def to_error(exceeded: LimitExceeded) -> RateLimitError:
    """Build the error to raise: InsufficientQuotaError for a quota, else RateLimitError."""
    title = _TITLES[exceeded.limit_name]
    counts = f"limit {exceeded.limit}, used {exceeded.used}, requested {exceeded.requested}."
    error: RateLimitError
    if renewal := _QUOTA_RENEWALS.get(exceeded.limit_name):
        error = InsufficientQuotaError(
            f"You exceeded your current quota of {title}: {counts} It is renewed {renewal}."
        )
    elif exceeded.retry_after_s is None:
        error = RateLimitError(
            f"Request too large for {title}: limit {exceeded.limit}, "
            f"requested {exceeded.requested}. It must be made smaller to be served."
        )
    else:
        wait_ms = max(_to_ms(exceeded.retry_after_s), 1)
        error = RateLimitError(
            f"Rate limit reached for {title}: {counts} Please try again in {_to_duration(wait_ms)}."
        )
        error.retry_after_ms = wait_ms
    error.limit_headers = to_headers(exceeded.status)
    return error


def _to_window_headers(name: str, window: Window | None) -> dict[str, str]:
    if window is None:
        return {}
    return {
        f"x-ratelimit-limit-{name}": str(window.limit),
        f"x-ratelimit-remaining-{name}": str(window.remaining),
        f"x-ratelimit-reset-{name}": _to_duration(_to_ms(window.reset_s)),
    }


def _to_ms(seconds: float) -> int:
    """Round up to whole milliseconds, but not for float noise; a retry must not be early."""
    return math.ceil(round(seconds * 1000, 3))


def _to_duration(milliseconds: int) -> str:
    """Format as OpenAI does: `0s`, `12ms`, `1.5s`, `6m0s`."""
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest_ms = divmod(milliseconds, 60_000)
    seconds = f"{rest_ms / 1000:g}s"
    return f"{minutes}m{seconds}" if minutes else seconds
