import pytest

from api.ports.rate_limits import Amounts, RateLimitStatus, Window
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits.accounts import Accounts
from deployments.ledger.limits.sliding_window import COUNTED_S
from tests.helpers.limits import NOTHING_OPEN, exceeded_in, is_granted, read_status

NOON_S = 1_750_000_000 // 86_400 * 86_400 + 43_200
"""A day in the middle of June 2025."""

DAY_S = 86_400
HOUR_S = 3_600

REQUEST = Amounts(requests=1, concurrent=1)


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


async def test_request_fits_again_after_its_retry_time(accounts: Accounts, clock: Clock):
    await accounts.set_limits({"k": KeyLimits(requests_per_minute=1)})
    clock.now_s = 1000.75
    await accounts.reserve("s", "1", "k", REQUEST)
    clock.now_s += 30
    exceeded = exceeded_in(await accounts.reserve("s", "2", "k", REQUEST))
    clock.now_s += exceeded.retry_after_s or 0

    assert exceeded.retry_after_s == 1000 + COUNTED_S - 1030.75
    assert is_granted(await accounts.reserve("s", "3", "k", REQUEST))


async def test_status_tells_remaining_amounts_and_reset_times(accounts: Accounts, clock: Clock):
    await accounts.set_limits({"k": KeyLimits(requests_per_minute=5, tokens_per_minute=100)})
    await accounts.reserve("s", "1", "k", Amounts(requests=1, tokens=30))
    clock.now_s += 10

    status = await accounts.reserve("s", "2", "k", Amounts(requests=1))

    assert status == RateLimitStatus(
        requests=Window(5, 3, COUNTED_S), tokens=Window(100, 70, COUNTED_S - 10)
    )


async def test_remaining_is_never_negative(accounts: Accounts):
    await accounts.set_limits({"k": KeyLimits(tokens_per_minute=100)})
    await accounts.reserve("s", "1", "k", Amounts(tokens=90))
    await accounts.settle("1", Amounts(tokens=150))

    status = await read_status(accounts)

    assert status.tokens is not None
    assert status.tokens.remaining == 0


async def test_unused_tokens_are_refunded_to_the_second_they_were_reserved_in(
    accounts: Accounts, clock: Clock
):
    await accounts.set_limits({"k": KeyLimits(tokens_per_minute=100)})
    await accounts.reserve("s", "1", "k", Amounts(tokens=80))
    clock.now_s += 20
    await accounts.settle("1", Amounts(tokens=30))
    at_end = (await read_status(accounts)).tokens
    clock.now_s = 1000 + COUNTED_S
    a_minute_later = (await read_status(accounts)).tokens

    assert at_end == Window(100, 70, COUNTED_S - 20)
    assert a_minute_later == Window(100, 100, 0.0)


async def test_refund_after_its_window_changes_nothing(accounts: Accounts, clock: Clock):
    await accounts.set_limits({"k": KeyLimits(tokens_per_minute=100)})
    await accounts.reserve("s", "1", "k", Amounts(tokens=80))
    clock.now_s += 90
    await accounts.reserve("s", "2", "k", Amounts(tokens=50))
    await accounts.settle("1", Amounts())

    tokens = (await read_status(accounts)).tokens

    assert tokens is not None
    assert tokens.remaining == 50


async def test_usage_above_the_reservation_counts_from_the_settlement(
    accounts: Accounts, clock: Clock
):
    await accounts.set_limits({"k": KeyLimits(tokens_per_minute=100)})
    await accounts.reserve("s", "1", "k", Amounts(tokens=10))
    clock.now_s += 20
    await accounts.settle("1", Amounts(tokens=15))

    assert (await read_status(accounts)).tokens == Window(100, 85, COUNTED_S)


async def test_dropped_session_frees_concurrency_and_quotas(accounts: Accounts):
    await accounts.set_limits(
        {"k": KeyLimits(tokens_per_minute=100, concurrent_requests=1, tokens_per_day=100)}
    )
    await accounts.reserve("s", "1", "k", Amounts(requests=1, tokens=40, concurrent=1))
    await accounts.drop_session("s")

    status = await accounts.reserve("t", "2", "k", Amounts(requests=1, tokens=60, concurrent=1))

    assert is_granted(status)
    assert await accounts.sessions() == ["t"]


async def test_changed_limits_apply_to_earlier_usage(accounts: Accounts):
    await accounts.set_limits({"k": KeyLimits(requests_per_minute=10)})
    await accounts.reserve("s", "1", "k", REQUEST)
    await accounts.reserve("s", "2", "k", REQUEST)
    await accounts.set_limits({"k": KeyLimits(requests_per_minute=2)})
    lowered = await accounts.reserve("s", "3", "k", REQUEST)
    await accounts.set_limits({"k": KeyLimits(requests_per_minute=3)})
    raised = await accounts.reserve("s", "3", "k", REQUEST)

    assert exceeded_in(lowered).used == 2
    assert is_granted(raised)


async def test_reservation_is_settled_after_its_limits_are_removed(accounts: Accounts):
    await accounts.set_limits({"k": KeyLimits(concurrent_requests=1)})
    await accounts.reserve("s", "1", "k", REQUEST)
    await accounts.set_limits({})
    await accounts.settle("1", REQUEST)

    assert await accounts.stats() == NOTHING_OPEN


async def test_flush_deletes_idle_accounts_only(accounts: Accounts, clock: Clock):
    await accounts.set_limits(dict.fromkeys("abc", KeyLimits(concurrent_requests=9)))
    for key_id in "abc":
        await accounts.reserve("s", key_id, key_id, REQUEST)
    await accounts.settle("a", REQUEST)
    await accounts.settle("b", REQUEST)
    clock.now_s += COUNTED_S
    await accounts.reserve("s", "again", "b", REQUEST)
    await accounts.settle("again", REQUEST)
    await accounts.flush()

    assert set(accounts._accounts) == {"b", "c"}  # no public fact: an idle account changes nothing


async def test_daily_quota_is_renewed_the_next_day(accounts: Accounts, wall_clock: Clock):
    await accounts.set_limits({"k": KeyLimits(tokens_per_day=100)})
    await accounts.set_quota_usage({"k": (60, 60)})
    await accounts.add_quota_usage("k", NOON_S, 40)
    today = await accounts.reserve("s", "1", "k", Amounts(tokens=1))
    wall_clock.now_s += DAY_S
    tomorrow = await accounts.reserve("s", "2", "k", Amounts(tokens=100))

    assert exceeded_in(today).limit_name == "day"
    assert is_granted(tomorrow)


async def test_monthly_quota_is_renewed_the_next_month(accounts: Accounts, wall_clock: Clock):
    await accounts.set_limits({"k": KeyLimits(tokens_per_month=100)})
    await accounts.set_quota_usage({"k": (0, 60)})
    await accounts.add_quota_usage("k", NOON_S, 40)
    wall_clock.now_s += DAY_S
    this_month = await accounts.reserve("s", "1", "k", Amounts(tokens=1))
    wall_clock.now_s += 30 * DAY_S
    next_month = await accounts.reserve("s", "2", "k", Amounts(tokens=100))

    assert exceeded_in(this_month).limit_name == "month"
    assert is_granted(next_month)


async def test_usage_counts_for_the_day_in_which_it_ended(accounts: Accounts):
    await accounts.set_limits({"k": KeyLimits(tokens_per_day=100)})
    await accounts.add_quota_usage("k", NOON_S - DAY_S, 100)

    assert is_granted(await accounts.reserve("s", "1", "k", Amounts(tokens=100)))


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
async def test_wall_clock_set_wrong_for_a_while_loses_no_usage(
    accounts: Accounts, wall_clock: Clock, step_s: int
):
    midnight_s = NOON_S + DAY_S / 2
    wall_clock.now_s = midnight_s - step_s / 2
    await accounts.set_limits({"k": KeyLimits(tokens_per_day=100)})
    await accounts.add_quota_usage("k", wall_clock.now_s, 100)
    wall_clock.now_s += step_s
    await accounts.add_quota_usage("k", wall_clock.now_s, 5)
    wall_clock.now_s -= step_s

    assert exceeded_in(await accounts.reserve("s", "1", "k", Amounts(tokens=1))).used == 100


async def test_wall_clock_does_not_affect_windows(accounts: Accounts, wall_clock: Clock):
    await accounts.set_limits({"k": KeyLimits(requests_per_minute=1)})
    await accounts.reserve("s", "1", "k", REQUEST)
    wall_clock.now_s += HOUR_S

    assert exceeded_in(await accounts.reserve("s", "2", "k", REQUEST)).limit_name == "requests"
