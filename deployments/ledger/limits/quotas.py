"""Tokens that each key has used this UTC day and month."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache

from deployments.ledger.records import DAY_S


def day_of(time_s: float) -> int:
    """Days from 1970-01-01 to a Unix time."""
    return int(time_s // DAY_S)


@lru_cache(maxsize=64)
def month_of(day: int) -> int:
    """A number for the month of a day; it grows by one from month to month."""
    date = datetime.fromtimestamp(day * DAY_S, UTC)
    return date.year * 12 + date.month


class QuotaUsage:
    """Tokens by day and by month.

    They are counted by each record's own time, so a clock that is wrong for a while does no harm.
    """

    def __init__(self) -> None:
        self._days: dict[tuple[str, int], int] = {}
        self._months: dict[tuple[str, int], int] = {}
        self._pruned_on = 0

    def replace(self, usage: Mapping[str, tuple[int, int]], now_s: float) -> None:
        """Start from what each key has used this day and this month."""
        day = day_of(now_s)
        self._days = {(key_id, day): tokens for key_id, (tokens, _) in usage.items()}
        self._months = {(key_id, month_of(day)): tokens for key_id, (_, tokens) in usage.items()}

    def add(self, key_id: str, time_s: float, tokens: int, now_s: float) -> None:
        """Count the tokens of a request that ended at `time_s`."""
        self._prune(day_of(now_s))
        day = day_of(time_s)
        month = month_of(day)
        self._days[key_id, day] = self._days.get((key_id, day), 0) + tokens
        self._months[key_id, month] = self._months.get((key_id, month), 0) + tokens

    def of(self, key_id: str, now_s: float) -> tuple[int, int]:
        """Tokens used in the day and in the month of a Unix time."""
        day = day_of(now_s)
        return self._days.get((key_id, day), 0), self._months.get((key_id, month_of(day)), 0)

    def _prune(self, today: int) -> None:
        """Keep one day and one month either side: the clock may yet be corrected by an hour."""
        if today == self._pruned_on:
            return
        self._pruned_on = today
        month = month_of(today)
        self._days = {at: n for at, n in self._days.items() if abs(at[1] - today) <= 1}
        self._months = {at: n for at, n in self._months.items() if abs(at[1] - month) <= 1}
