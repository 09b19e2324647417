"""The few statistics of a benchmark of few rounds: percentiles, medians, ratios in pairs."""

import math
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of a few values, and how far they lie apart."""

    median: float
    low: float
    high: float


def percentile(ordered: list[float], percent: float) -> float:
    """The nearest-rank percentile of values in ascending order; NaN of none."""
    if not ordered:
        return math.nan
    rank = math.ceil(len(ordered) * percent / 100)
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def to_spread(values: list[float]) -> Spread | None:
    """Median, least and greatest; None of no values."""
    known = [value for value in values if not math.isnan(value)]
    return Spread(median(known), min(known), max(known)) if known else None


def ratios(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Ours to theirs in every round that has both: what drifts between rounds cancels."""
    return [ours[number] / theirs[number] for number in sorted(ours) if theirs.get(number)]


def differences(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Ours less theirs in every round that has both."""
    return [ours[number] - theirs[number] for number in sorted(ours) if number in theirs]
