"""Runs generated examples: in CI always the same, by hand new ones for as long as is wanted."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

Example = TypeVar("Example")

_ROUND = 1000
"""Examples between two looks at the clock."""

_CALM = settings(
    database=None,
    deadline=None,
    print_blob=True,  # a failure names the decorator that repeats it
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


class Fuzzer:
    """Generates examples for one test."""

    def __init__(self, seconds: float | None) -> None:
        """Generate new examples for a while, or the same ones as always if it is None."""
        self._seconds = seconds

    def run(
        self, examples: st.SearchStrategy[Example], check: Callable[[Example], Any], count: int
    ) -> None:
        """Call `check` with each example; `count` of them unless there is a time."""

        def run_round(options: settings) -> None:
            @options
            @given(examples)
            def test(example: Example) -> None:
                check(example)

            test()

        self._repeat(run_round, count)

    def run_machine(self, machine: type[RuleBasedStateMachine], count: int, steps: int) -> None:
        """Run a state machine `count` times, or for a while, with up to `steps` steps each."""
        self._repeat(
            lambda options: run_state_machine_as_test(
                machine, settings=settings(options, stateful_step_count=steps)
            ),
            count,
        )

    def _repeat(self, run: Callable[[settings], None], count: int) -> None:
        if self._seconds is None:
            run(settings(_CALM, max_examples=count, derandomize=True))
            return
        end_s = time.monotonic() + self._seconds
        while time.monotonic() < end_s:
            run(settings(_CALM, max_examples=min(count, _ROUND), derandomize=False))
