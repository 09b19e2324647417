import pytest

from api.ports.rate_limits import Amounts, LimitExceeded, RateLimitStatus, Window
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits.accounts import Accounts
from deployments.ledger.limits.sliding_window import COUNTED_S

NOON_S = 1_750_000_000 // 86_400 * 86_400 + 43_200
"""A day in the middle of June 2025."""

DAY_S = 86_400
HOUR_S = 3_600

REQUEST = Amounts(requests=1, slots=1)


class Clock:
    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wall_clock() -> Clock:
    return Clock(NOON_S)


@pytest.fixture
def accounts(clock: Clock, wall_clock: Clock) -> Accounts:
    return Accounts(None, clock, wall_clock)


def refusal_of(outcome: RateLimitStatus | LimitExceeded) -> LimitExceeded:
    assert isinstance(outcome, LimitExceeded)
    return outcome


def is_granted(outcome: RateLimitStatus | LimitExceeded) -> bool:
    return isinstance(outcome, RateLimitStatus)


def test_request_returns_a_minute_later(accounts: Accounts, clock: Clock):
    accounts.set_limits({"k": KeyLimits(requests_per_minute=1)})
    clock.now_s = 1000.75
    accounts.reserve("s", "1", "k", REQUEST)
    clock.now_s += 30
    refusal = refusal_of(accounts.reserve("s", "2", "k", REQUEST))
    clock.now_s += refusal.retry_after_s or 0

    assert refusal.retry_after_s == 1000 + COUNTED_S - 1030.75
    assert is_granted(accounts.reserve("s", "3", "k", REQUEST))


def test_standing_says_what_is_left_and_when_all_is(accounts: Accounts, clock: Clock):
    accounts.set_limits({"k": KeyLimits(requests_per_minute=5, tokens_per_minute=100)})
    accounts.reserve("s", "1", "k", Amounts(requests=1, tokens=30))
    clock.now_s += 10

    standing = accounts.reserve("s", "2", "k", Amounts(requests=1))

    assert standing == RateLimitStatus(
        requests=Window(5, 3, COUNTED_S), tokens=Window(100, 70, COUNTED_S - 10)
    )


def test_remaining_is_never_negative(accounts: Accounts):
    accounts.set_limits({"k": KeyLimits(tokens_per_minute=100)})
    accounts.reserve("s", "1", "k", Amounts(tokens=90))
    accounts.settle("1", Amounts(tokens=150))

    standing = accounts.standing("k")

    assert standing.tokens is not None
    assert standing.tokens.remaining == 0


def test_tokens_return_to_the_second_they_were_taken_in(accounts: Accounts, clock: Clock):
    accounts.set_limits({"k": KeyLimits(tokens_per_minute=100)})
    accounts.reserve("s", "1", "k", Amounts(tokens=80))
    clock.now_s += 20
    accounts.settle("1", Amounts(tokens=30))
    at_end = accounts.standing("k").tokens
    clock.now_s = 1000 + COUNTED_S
    a_minute_later = accounts.standing("k").tokens

    assert at_end == Window(100, 70, COUNTED_S - 20)
    assert a_minute_later == Window(100, 100, 0.0)


def test_refund_after_its_window_changes_nothing(accounts: Accounts, clock: Clock):
    accounts.set_limits({"k": KeyLimits(tokens_per_minute=100)})
    accounts.reserve("s", "1", "k", Amounts(tokens=80))
    clock.now_s += 90
    accounts.reserve("s", "2", "k", Amounts(tokens=50))
    accounts.settle("1", Amounts())

    tokens = accounts.standing("k").tokens

    assert tokens is not None
    assert tokens.remaining == 50


def test_more_than_reserved_counts_from_the_end(accounts: Accounts, clock: Clock):
    accounts.set_limits({"k": KeyLimits(tokens_per_minute=100)})
    accounts.reserve("s", "1", "k", Amounts(tokens=10))
    clock.now_s += 20
    accounts.settle("1", Amounts(tokens=15))

    assert accounts.standing("k").tokens == Window(100, 85, COUNTED_S)


def test_dropped_session_frees_what_is_sure(accounts: Accounts):
    accounts.set_limits(
        {"k": KeyLimits(tokens_per_minute=100, concurrent_requests=1, tokens_per_day=100)}
    )
    accounts.reserve("s", "1", "k", Amounts(requests=1, tokens=40, slots=1))
    accounts.drop_session("s")

    standing = accounts.reserve("t", "2", "k", Amounts(requests=1, tokens=60, slots=1))

    assert is_granted(standing)
    assert accounts.sessions() == ["t"]


def test_changed_limits_hold_for_what_was_taken_before(accounts: Accounts):
    accounts.set_limits({"k": KeyLimits(requests_per_minute=10)})
    accounts.reserve("s", "1", "k", REQUEST)
    accounts.reserve("s", "2", "k", REQUEST)
    accounts.set_limits({"k": KeyLimits(requests_per_minute=2)})
    lowered = accounts.reserve("s", "3", "k", REQUEST)
    accounts.set_limits({"k": KeyLimits(requests_per_minute=3)})
    raised = accounts.reserve("s", "3", "k", REQUEST)

    assert refusal_of(lowered).used == 2
    assert is_granted(raised)


def test_hold_outlives_the_limits_that_it_was_granted_under(accounts: Accounts):
    accounts.set_limits({"k": KeyLimits(concurrent_requests=1)})
    accounts.reserve("s", "1", "k", REQUEST)
    accounts.set_limits({})
    accounts.settle("1", REQUEST)

    assert accounts.stats() == {"sessions": 0, "holds": 0, "slots": 0, "open_tokens": 0}


def test_tidying_forgets_idle_accounts_only(accounts: Accounts, clock: Clock):
    accounts.set_limits(dict.fromkeys("abc", KeyLimits(concurrent_requests=9)))
    for key_id in "abc":
        accounts.reserve("s", key_id, key_id, REQUEST)
    accounts.settle("a", REQUEST)
    accounts.settle("b", REQUEST)
    clock.now_s += COUNTED_S
    accounts.reserve("s", "again", "b", REQUEST)
    accounts.settle("again", REQUEST)
    accounts.tidy()

    assert set(accounts._accounts) == {"b", "c"}


def test_quota_is_whole_again_the_next_day(accounts: Accounts, wall_clock: Clock):
    accounts.set_limits({"k": KeyLimits(tokens_per_day=100)})
    accounts.set_spent({"k": (60, 60)})
    accounts.spend("k", NOON_S, 40)
    today = accounts.reserve("s", "1", "k", Amounts(tokens=1))
    wall_clock.now_s += DAY_S
    tomorrow = accounts.reserve("s", "2", "k", Amounts(tokens=100))

    assert refusal_of(today).limited == "day"
    assert is_granted(tomorrow)


def test_quota_of_the_month_lasts_to_its_end(accounts: Accounts, wall_clock: Clock):
    accounts.set_limits({"k": KeyLimits(tokens_per_month=100)})
    accounts.set_spent({"k": (0, 60)})
    accounts.spend("k", NOON_S, 40)
    wall_clock.now_s += DAY_S
    this_month = accounts.reserve("s", "1", "k", Amounts(tokens=1))
    wall_clock.now_s += 30 * DAY_S
    next_month = accounts.reserve("s", "2", "k", Amounts(tokens=100))

    assert refusal_of(this_month).limited == "month"
    assert is_granted(next_month)


def test_record_counts_for_the_day_that_it_ended_in(accounts: Accounts):
    accounts.set_limits({"k": KeyLimits(tokens_per_day=100)})
    accounts.spend("k", NOON_S - DAY_S, 100)

    assert is_granted(accounts.reserve("s", "1", "k", Amounts(tokens=100)))


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
def test_clock_set_wrong_for_a_while_loses_no_quota(
    accounts: Accounts, wall_clock: Clock, step_s: int
):
    midnight_s = NOON_S + DAY_S / 2
    wall_clock.now_s = midnight_s - step_s / 2
    accounts.set_limits({"k": KeyLimits(tokens_per_day=100)})
    accounts.spend("k", wall_clock.now_s, 100)
    wall_clock.now_s += step_s
    accounts.spend("k", wall_clock.now_s, 5)
    wall_clock.now_s -= step_s

    assert refusal_of(accounts.reserve("s", "1", "k", Amounts(tokens=1))).used == 100


def test_clock_set_wrong_does_not_touch_windows(accounts: Accounts, wall_clock: Clock):
    accounts.set_limits({"k": KeyLimits(requests_per_minute=1)})
    accounts.reserve("s", "1", "k", REQUEST)
    wall_clock.now_s += HOUR_S

    assert refusal_of(accounts.reserve("s", "2", "k", REQUEST)).limited == "requests"


def test_spending_of_days_gone_by_is_forgotten(accounts: Accounts, wall_clock: Clock):
    for _ in range(100):
        accounts.spend("k", wall_clock.now_s, 1)
        wall_clock.now_s += DAY_S

    assert len(accounts._spending._days) <= 3
    assert len(accounts._spending._months) <= 3
