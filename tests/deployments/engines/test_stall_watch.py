import math
from collections.abc import Callable
from contextlib import suppress

import pytest

from api.errors import ReplicaLostError
from deployments.engines.stall_watch import StallWatch

TIMEOUT_S = 10.0


class Clock:
    """A clock that the test moves."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(clock: Clock) -> StallWatch:
    return StallWatch(TIMEOUT_S, clock)


def test_idle_engine_never_stalls(watch: StallWatch, clock: Clock) -> None:
    clock.now_s += 1000

    watch.check()


def test_work_without_progress_stalls_after_the_timeout(watch: StallWatch, clock: Clock) -> None:
    with watch.working():
        clock.now_s += TIMEOUT_S
        watch.check()
        clock.now_s += 1

        with pytest.raises(ReplicaLostError, match="no progress for 11 seconds"):
            watch.check()


def test_progress_restarts_the_timeout(watch: StallWatch, clock: Clock) -> None:
    with watch.working():
        clock.now_s += TIMEOUT_S
        watch.record_progress()
        clock.now_s += TIMEOUT_S

        watch.check()


def test_idle_time_before_the_work_does_not_count(watch: StallWatch, clock: Clock) -> None:
    clock.now_s += 1000
    with watch.working():
        watch.check()


def test_second_work_does_not_hide_that_the_first_stalls(watch: StallWatch, clock: Clock) -> None:
    with watch.working():
        clock.now_s += TIMEOUT_S
        with watch.working():
            clock.now_s += 1

            with pytest.raises(ReplicaLostError):
                watch.check()


def fail() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("work", [lambda: None, fail])
def test_engine_is_idle_when_all_work_has_ended(
    watch: StallWatch, clock: Clock, work: Callable[[], None]
) -> None:
    with suppress(ZeroDivisionError), watch.working(), watch.working():
        work()
    clock.now_s += 1000

    watch.check()


def test_infinite_timeout_never_stalls(clock: Clock) -> None:
    watch = StallWatch(math.inf, clock)
    with watch.working():
        clock.now_s += 1e9

        watch.check()
