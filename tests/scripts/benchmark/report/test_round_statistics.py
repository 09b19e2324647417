import math

from scripts.benchmark.report.round_statistics import (
    Spread,
    differences,
    percentile,
    ratios,
    to_spread,
)


def test_percentiles_are_measured_values():
    ordered = [float(value) for value in range(1, 101)]

    assert [percentile(ordered, percent) for percent in (0, 50, 95, 99, 100)] == [
        1,
        50,
        95,
        99,
        100,
    ]


def test_percentile_of_nothing_is_nan():
    assert math.isnan(percentile([], 50))


def test_spread_ignores_nan():
    assert to_spread([3.0, math.nan, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert to_spread([math.nan]) is None


def test_rounds_of_both_stacks_are_compared():
    ours, theirs = {1: 2.0, 2: 9.0, 3: 4.0}, {1: 1.0, 3: 8.0}

    assert ratios(ours, theirs) == [2.0, 0.5]
    assert differences(ours, theirs) == [1.0, -4.0]
