"""The account of one key: its windows, and what its requests in flight have reserved."""

from typing import Literal, get_args

from api.ports.rate_limits import Amounts, LimitExceeded, LimitName, RateLimitStatus, Window
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits.sliding_window import SlidingWindow

WindowName = Literal["requests", "tokens", "images", "pixel_steps"]
"""The limits per minute."""

WINDOW_NAMES: tuple[WindowName, ...] = get_args(WindowName)

CONCURRENT_RETRY_S = 1.0
"""When a request in flight will end is unknowable, so clients retry in a second."""


class Account:
    """Counts, and finds the limit that a request would exceed; enforcing it is the caller's."""

    def __init__(self) -> None:
        self.windows = {name: SlidingWindow() for name in WINDOW_NAMES}
        self.concurrent = 0
        """Requests in flight."""
        self.open_tokens = 0
        """Tokens reserved by requests in flight; they count against the quotas until settled."""

    def is_idle(self, now_s: float) -> bool:
        """Whether the account can be deleted without changing any answer."""
        is_reserved = self.concurrent or self.open_tokens
        return not is_reserved and not any(window.used(now_s) for window in self.windows.values())

    def status(self, limits: KeyLimits, now_s: float) -> RateLimitStatus:
        """What response headers report."""
        return RateLimitStatus(
            requests=self._window("requests", limits.requests_per_minute, now_s),
            tokens=self._window("tokens", limits.tokens_per_minute, now_s),
        )

    def find_exceeded(
        self, amounts: Amounts, limits: KeyLimits, quota_usage: tuple[int, int], now_s: float
    ) -> LimitExceeded | None:
        """The first limit that `amounts` would exceed; quotas first, as waiting cannot help there.

        Args:
            amounts: granted as a whole or not at all.
            limits: the key's current limits.
            quota_usage: tokens used this day and this month.
            now_s: time on the clock of the windows.
        """
        tokens = requested_tokens(amounts)
        day, month = (used + self.open_tokens for used in quota_usage)
        demands: tuple[tuple[LimitName, int | None, int, int], ...] = (
            ("month", limits.tokens_per_month, month, tokens),
            ("day", limits.tokens_per_day, day, tokens),
            (
                "requests",
                limits.requests_per_minute,
                self._used("requests", now_s),
                amounts.requests,
            ),
            ("tokens", limits.tokens_per_minute, self._used("tokens", now_s), tokens),
            ("images", limits.images_per_minute, self._used("images", now_s), amounts.images),
            (
                "pixel_steps",
                limits.pixel_steps_per_minute,
                self._used("pixel_steps", now_s),
                amounts.pixel_steps,
            ),
            ("concurrent", limits.concurrent_requests, self.concurrent, amounts.concurrent),
        )
        for limit_name, limit, used, requested in demands:
            if limit is not None and requested and used + requested > limit:
                wait_s = self._wait_s(limit_name, requested, limit, now_s)
                status = self.status(limits, now_s)
                return LimitExceeded(limit_name, limit, used, requested, wait_s, status)
        return None

    def _used(self, name: WindowName, now_s: float) -> int:
        return self.windows[name].used(now_s)

    def _window(self, name: WindowName, limit: int | None, now_s: float) -> Window | None:
        if limit is None:
            return None
        window = self.windows[name]
        return Window(limit, max(limit - window.used(now_s), 0), window.reset_s(now_s))

    def _wait_s(
        self, limit_name: LimitName, requested: int, limit: int, now_s: float
    ) -> float | None:
        if limit_name == "day" or limit_name == "month":
            return None
        if limit_name == "concurrent":
            return CONCURRENT_RETRY_S if requested <= limit else None
        return self.windows[limit_name].wait_s(now_s, requested, limit)


def requested_tokens(amounts: Amounts) -> int:
    """Tokens to check the limits for: one for a text request whose tokens are not counted yet.

    So a flood on a key without tokens left is refused at the ingress. Images need no tokens.
    """
    is_uncounted = amounts.requests and not amounts.tokens and not amounts.images
    return 1 if is_uncounted else amounts.tokens
