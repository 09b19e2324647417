"""How one key stands: its windows, and what its requests under way hold."""

from typing import Literal, get_args

from api.ports.rate_limits import Amounts, LimitExceeded, LimitName, RateLimitStatus, Window
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits.sliding_window import SlidingWindow

Windowed = Literal["requests", "tokens", "images"]
"""What is limited by the minute."""

WINDOWED: tuple[Windowed, ...] = get_args(Windowed)

SLOT_RETRY_S = 1.0
"""When a request under way ends is anybody's guess."""


class Account:
    """Counts, and says what would break a limit; it never refuses what it is told to count."""

    def __init__(self) -> None:
        self.windows = {kind: SlidingWindow() for kind in WINDOWED}
        self.slots = 0
        self.open_tokens = 0
        """Reserved by requests under way; counts against the quotas until it is settled."""

    def is_idle(self, now_s: float) -> bool:
        """Whether forgetting it would change nothing."""
        held = self.slots or self.open_tokens
        return not held and not any(window.used(now_s) for window in self.windows.values())

    def standing(self, limits: KeyLimits, now_s: float) -> RateLimitStatus:
        """What the response says."""
        return RateLimitStatus(
            requests=self._window("requests", limits.requests_per_minute, now_s),
            tokens=self._window("tokens", limits.tokens_per_minute, now_s),
        )

    def find_refusal(
        self, asked: Amounts, limits: KeyLimits, spent: tuple[int, int], now_s: float
    ) -> LimitExceeded | None:
        """The first limit that `asked` would break; quotas first, as no waiting helps there.

        Args:
            asked: all of it is granted or nothing.
            limits: as they are now.
            spent: tokens of the day and of the month.
            now_s: on the clock of the windows.
        """
        tokens = asked_tokens(asked)
        day, month = (tokens_spent + self.open_tokens for tokens_spent in spent)
        demands: tuple[tuple[LimitName, int | None, int, int], ...] = (
            ("month", limits.tokens_per_month, month, tokens),
            ("day", limits.tokens_per_day, day, tokens),
            ("requests", limits.requests_per_minute, self._used("requests", now_s), asked.requests),
            ("tokens", limits.tokens_per_minute, self._used("tokens", now_s), tokens),
            ("images", limits.images_per_minute, self._used("images", now_s), asked.images),
            ("concurrent", limits.concurrent_requests, self.slots, asked.slots),
        )
        for limited, limit, used, amount in demands:
            if limit is not None and amount and used + amount > limit:
                wait_s = self._wait_s(limited, amount, limit, now_s)
                standing = self.standing(limits, now_s)
                return LimitExceeded(limited, limit, used, amount, wait_s, standing)
        return None

    def _used(self, kind: Windowed, now_s: float) -> int:
        return self.windows[kind].used(now_s)

    def _window(self, kind: Windowed, limit: int | None, now_s: float) -> Window | None:
        if limit is None:
            return None
        window = self.windows[kind]
        return Window(limit, max(limit - window.used(now_s), 0), window.reset_s(now_s))

    def _wait_s(self, limited: LimitName, amount: int, limit: int, now_s: float) -> float | None:
        if limited == "day" or limited == "month":
            return None
        if limited == "concurrent":
            return SLOT_RETRY_S if amount <= limit else None
        return self.windows[limited].wait_s(now_s, amount, limit)


def asked_tokens(asked: Amounts) -> int:
    """Tokens to look for: at least one for a request whose tokens are not counted yet.

    So a flood on a key that has none left stops at the door. Pictures need no tokens.
    """
    is_uncounted = asked.requests and not asked.tokens and not asked.images
    return 1 if is_uncounted else asked.tokens
