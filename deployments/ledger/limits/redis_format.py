"""Amounts, limits and answers in the form in which the Redis scripts read and write them."""

from collections.abc import Sequence

from api.ports.rate_limits import Amounts, LimitExceeded, LimitName, RateLimitStatus, Window
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits.account import requested_tokens


def to_stored_amounts(amounts: Amounts) -> dict[str, int]:
    """Amounts under the names that Redis stores."""
    return {
        "requests": amounts.requests,
        "tokens": amounts.tokens,
        "images": amounts.images,
        "pixel_steps": amounts.pixel_steps,
        "slots": amounts.concurrent,
    }


def limits_by_name(limits: KeyLimits) -> dict[LimitName, int]:
    """The limits that the key has."""
    named: dict[LimitName, int | None] = {
        "requests": limits.requests_per_minute,
        "tokens": limits.tokens_per_minute,
        "images": limits.images_per_minute,
        "pixel_steps": limits.pixel_steps_per_minute,
        "concurrent": limits.concurrent_requests,
        "day": limits.tokens_per_day,
        "month": limits.tokens_per_month,
    }
    return {name: limit for name, limit in named.items() if limit is not None}


def to_status(numbers: Sequence[str], limits: KeyLimits) -> RateLimitStatus:
    """The status in a script's answer.

    Args:
        numbers: used requests, seconds until they reset, and the same of tokens.
        limits: the key's limits.
    """
    requests_used, requests_reset_s, tokens_used, tokens_reset_s = numbers
    return RateLimitStatus(
        requests=_to_window(limits.requests_per_minute, requests_used, requests_reset_s),
        tokens=_to_window(limits.tokens_per_minute, tokens_used, tokens_reset_s),
    )


def _to_window(limit: int | None, used: str, reset_s: str) -> Window | None:
    return None if limit is None else Window(limit, max(limit - int(used), 0), float(reset_s))


def to_exceeded(
    limit_name: LimitName,
    details: Sequence[str],
    amounts: Amounts,
    limits: KeyLimits,
    status: RateLimitStatus,
) -> LimitExceeded:
    """The refusal in a script's answer.

    Args:
        limit_name: the exceeded limit.
        details: how much is used of it, and seconds to wait; empty if waiting does not help.
        amounts: as requested.
        limits: the key's limits.
        status: after the refusal.
    """
    used, wait_s = details
    requested: dict[LimitName, int] = {
        "requests": amounts.requests,
        "images": amounts.images,
        "pixel_steps": amounts.pixel_steps,
        "concurrent": amounts.concurrent,
    }
    return LimitExceeded(
        limit_name=limit_name,
        limit=limits_by_name(limits)[limit_name],
        used=int(used),
        requested=requested.get(limit_name, requested_tokens(amounts)),
        retry_after_s=float(wait_s) if wait_s else None,
        status=status,
    )
