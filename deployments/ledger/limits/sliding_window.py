"""How much was taken in the last minute, in buckets of one second.

The moving window of the library `limits` keeps one entry for each unit taken, and none of its
strategies can give back: neither does for tokens, which come in thousands and are refunded.

An amount counts until its whole bucket is older than the window: never more than the limit passes
within any 60 s, and the last of it comes back up to one second late.
"""

WINDOW_S = 60
COUNTED_S = WINDOW_S + 1
"""For how long a bucket counts, from its beginning."""


class SlidingWindow:
    """The amounts that count now, by tick: the second, rounded down, in which they were taken.

    Time only moves on from call to call.
    """

    def __init__(self) -> None:
        self._amounts: dict[int, int] = {}  # oldest first: nothing is taken in the past
        self._used = 0

    def take(self, tick: int, amount: int) -> int:
        """Add to the bucket of this second; returns what is in it then."""
        self._used += amount
        self._amounts[tick] = total = self._amounts.get(tick, 0) + amount
        return total

    def give_back(self, tick: int, amount: int) -> int:
        """Return what was taken in that second, if it still counts; returns what is left in it."""
        there = self._amounts.get(tick, 0)
        returned = min(amount, there)
        self._used -= returned
        if there > returned:
            self._amounts[tick] = there - returned
        else:
            self._amounts.pop(tick, None)
        return there - returned

    def used(self, now_s: float) -> int:
        """How much counts now."""
        while self._amounts:
            oldest = next(iter(self._amounts))
            if now_s < oldest + COUNTED_S:
                break
            self._used -= self._amounts.pop(oldest)
        return self._used

    def wait_s(self, now_s: float, amount: int, limit: int) -> float | None:
        """Seconds until `amount` fits under the limit; None if it never will."""
        if amount > limit:
            return None
        excess = self.used(now_s) + amount - limit
        if excess <= 0:
            return 0.0
        for tick, taken in self._amounts.items():
            excess -= taken
            if excess <= 0:
                return tick + COUNTED_S - now_s
        raise AssertionError("an empty window has room for all that is not above the limit")

    def reset_s(self, now_s: float) -> float:
        """Seconds until nothing counts any more."""
        if not self.used(now_s):
            return 0.0
        return next(reversed(self._amounts)) + COUNTED_S - now_s
