"""The amounts of the last minute, in buckets of one second.

Not the moving window of the library `limits`: it keeps one entry for each unit, and none of its
strategies can refund. Tokens come in thousands and are refunded.

An amount counts until its whole bucket is older than the window. So never more than the limit
passes within any 60 s, and an amount is available again up to one second late.
"""

WINDOW_S = 60
COUNTED_S = WINDOW_S + 1
"""How long a bucket counts, from the start of its second."""


class SlidingWindow:
    """Amounts by the second, rounded down, in which they were added.

    Time must not go back between calls.
    """

    def __init__(self) -> None:
        self._amounts: dict[int, int] = {}  # second → amount; oldest first
        self._used = 0

    def add(self, second: int, amount: int) -> int:
        """Add an amount to the bucket of a second; returns the bucket's total."""
        self._used += amount
        self._amounts[second] = total = self._amounts.get(second, 0) + amount
        return total

    def refund(self, second: int, amount: int) -> int:
        """Take an amount out of a bucket that still counts; returns what is left in the bucket."""
        total = self._amounts.get(second, 0)
        refunded = min(amount, total)
        self._used -= refunded
        if total > refunded:
            self._amounts[second] = total - refunded
        else:
            self._amounts.pop(second, None)
        return total - refunded

    def used(self, now_s: float) -> int:
        """The sum of all buckets that count."""
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
        for second, counted in self._amounts.items():
            excess -= counted
            if excess <= 0:
                return second + COUNTED_S - now_s
        raise AssertionError("an empty window has room for every amount up to the limit")

    def reset_s(self, now_s: float) -> float:
        """Seconds until nothing counts any more."""
        if not self.used(now_s):
            return 0.0
        return next(reversed(self._amounts)) + COUNTED_S - now_s
