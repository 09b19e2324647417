"""Statistics of a benchmark with few rounds: percentiles, medians, ratios round by round."""

import math
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """The median, the least and the greatest of a few values."""

    median: float
    low: float
    high: float


def percentile(ordered: list[float], percent: float) -> float:
    """Return the nearest-rank percentile of ascending values; NaN if there are none."""
    if not ordered:
        return math.nan
    rank = math.ceil(len(ordered) * percent / 100)
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def to_spread(values: list[float]) -> Spread | None:
    """Summarise values without NaN; None if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return Spread(median(known), min(known), max(known)) if known else None


def ratios(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Divide ours by theirs in every round that has both, so that drift between rounds cancels."""
    return [ours[number] / theirs[number] for number in sorted(ours) if theirs.get(number)]


def differences(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Subtract theirs from ours in every round that has both."""
    return [ours[number] - theirs[number] for number in sorted(ours) if number in theirs]
