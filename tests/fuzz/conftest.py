"""Marks the tests of this folder, and shares out their time."""

from pathlib import Path

import pytest

from tests.helpers.fuzzing import Fuzzer

_HERE = Path(__file__).parent
_LIMIT_S = 240
"""More than a test takes beyond its share, with the search for the smallest example."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of this folder; `items` are those of all folders."""
    ours = [item for item in items if item.path.is_relative_to(_HERE)]
    seconds = config.getoption("--fuzz-seconds")
    for item in ours:
        item.add_marker(pytest.mark.fuzz)
        if seconds is not None:
            item.add_marker(pytest.mark.timeout(seconds / len(ours) + _LIMIT_S))


@pytest.fixture
def fuzzer(request: pytest.FixtureRequest) -> Fuzzer:
    """What generates examples: a few that are always the same, or new ones for a while."""
    seconds = request.config.getoption("--fuzz-seconds")
    if seconds is None:
        return Fuzzer(None)
    tests = [item for item in request.session.items if item.get_closest_marker("fuzz")]
    return Fuzzer(seconds / len(tests))
