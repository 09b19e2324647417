"""The behaviour that both limit stores share, on their own clocks."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.ports.rate_limits import Amounts, LimitExceeded, RateLimitStatus, Window
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits.accounts import Accounts
from deployments.ledger.limits.redis_accounts import RedisAccounts, connect
from deployments.ledger.limits.sqlite_state import SqliteState
from deployments.ledger.limits.store import LimitStore, Reservation
from tests.helpers.limits import NOTHING_OPEN, exceeded_in, is_granted, read_status

REQUEST = Amounts(requests=1, concurrent=1)


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LimitStore]:
    if request.param == "memory":
        state = SqliteState(tmp_path / "limits.db")
        yield Accounts(state)
        state.close()
    else:
        port = request.getfixturevalue("redis_port")
        async with connect(f"redis://127.0.0.1:{port}") as redis:
            yield RedisAccounts(redis, prefix=uuid.uuid4().hex)


@pytest.mark.parametrize(
    ("limits", "each"),
    [
        (KeyLimits(requests_per_minute=10), Amounts(requests=1)),
        (KeyLimits(tokens_per_minute=1009), Amounts(tokens=100)),
        (KeyLimits(images_per_minute=21), Amounts(requests=1, images=2)),
        (KeyLimits(concurrent_requests=10), Amounts(requests=1, concurrent=1)),
        (KeyLimits(tokens_per_day=1099), Amounts(tokens=100)),
        (KeyLimits(tokens_per_month=1000), Amounts(tokens=100)),
    ],
)
async def test_of_fifty_concurrent_reservations_exactly_ten_fit(
    store: LimitStore, limits: KeyLimits, each: Amounts
):
    await store.set_limits({"k": limits})
    outcomes = await asyncio.gather(
        *(store.reserve(f"s{number % 3}", str(number), "k", each) for number in range(50))
    )

    assert sum(map(is_granted, outcomes)) == 10


async def test_key_without_limits_is_always_granted(store: LimitStore):
    await store.set_limits({"k": KeyLimits()})

    assert await store.reserve("s", "1", "k", Amounts(1, 10**9, 10**9, 1)) == RateLimitStatus()
    assert await store.reserve("s", "2", "unknown", REQUEST) == RateLimitStatus()
    assert await read_status(store) == RateLimitStatus()
    await store.settle("1", Amounts())


async def test_refused_reservation_takes_nothing(store: LimitStore):
    await store.set_limits({"k": KeyLimits(requests_per_minute=10, tokens_per_minute=100)})
    refused = await store.reserve("s", "1", "k", Amounts(requests=1, tokens=101))
    status = await read_status(store)

    assert exceeded_in(refused).limit_name == "tokens"
    assert status == RateLimitStatus(Window(10, 10, 0.0), Window(100, 100, 0.0))


async def test_grant_returns_the_status_after_it(store: LimitStore):
    await store.set_limits({"k": KeyLimits(requests_per_minute=10, tokens_per_minute=100)})
    status = await store.reserve("s", "1", "k", Amounts(requests=1, tokens=30))

    assert isinstance(status, RateLimitStatus)
    assert status.requests is not None
    assert status.tokens is not None
    assert (status.requests.limit, status.requests.remaining) == (10, 9)
    assert (status.tokens.limit, status.tokens.remaining) == (100, 70)
    assert 58 < status.tokens.reset_s <= 61


async def test_refusal_tells_the_limit_and_when_to_retry(store: LimitStore):
    await store.set_limits({"k": KeyLimits(tokens_per_minute=100)})
    await store.reserve("s", "1", "k", Amounts(tokens=30))
    await store.reserve("s", "2", "k", Amounts(tokens=60))
    exceeded = exceeded_in(await store.reserve("s", "3", "k", Amounts(tokens=20)))

    assert (exceeded.limit_name, exceeded.limit, exceeded.used, exceeded.requested) == (
        "tokens",
        100,
        90,
        20,
    )
    assert exceeded.retry_after_s is not None
    assert 58 < exceeded.retry_after_s <= 61
    assert exceeded.status.tokens is not None
    assert exceeded.status.tokens.remaining == 10


async def test_reservation_larger_than_the_limit_has_no_retry_time(store: LimitStore):
    await store.set_limits({"k": KeyLimits(images_per_minute=3, concurrent_requests=0)})
    images = exceeded_in(await store.reserve("s", "1", "k", Amounts(images=4)))
    concurrent = exceeded_in(await store.reserve("s", "1", "k", Amounts(concurrent=1)))

    assert (images.limit_name, images.retry_after_s) == ("images", None)
    assert (concurrent.limit_name, concurrent.retry_after_s) == ("concurrent", None)


async def test_concurrency_refusal_retries_in_a_second(store: LimitStore):
    await store.set_limits({"k": KeyLimits(concurrent_requests=1)})
    await store.reserve("s", "1", "k", REQUEST)
    exceeded = exceeded_in(await store.reserve("s", "2", "k", REQUEST))

    assert exceeded == LimitExceeded("concurrent", 1, 1, 1, 1.0, RateLimitStatus())


async def test_repeated_reservation_is_taken_once(store: LimitStore):
    await store.set_limits({"k": KeyLimits(requests_per_minute=1, concurrent_requests=1)})
    first = await store.reserve("s", "1", "k", REQUEST)
    again = await store.reserve("s", "1", "k", REQUEST)
    await store.settle("1", REQUEST)

    assert is_granted(first)
    assert is_granted(again)
    assert await store.stats() == NOTHING_OPEN


async def test_repeated_settlement_counts_once(store: LimitStore):
    await store.set_limits({"k": KeyLimits(tokens_per_minute=100, concurrent_requests=2)})
    await store.reserve("s", "1", "k", Amounts(tokens=50, concurrent=1))
    await store.reserve("s", "2", "k", Amounts(tokens=50, concurrent=1))
    await store.settle("1", Amounts(tokens=40))
    await store.settle("1", Amounts(tokens=40))
    await store.settle("unknown", Amounts(tokens=40))
    tokens = (await read_status(store)).tokens

    assert tokens is not None
    assert tokens.remaining == 10
    assert (await store.stats())["concurrent"] == 1


async def test_unused_amounts_are_refunded(store: LimitStore):
    await store.set_limits({"k": KeyLimits(10, 100, 5, 1)})
    await store.reserve("s", "1", "k", Amounts(1, 100, 5, 1))
    await store.settle("1", Amounts())
    status = await read_status(store)

    assert status == RateLimitStatus(Window(10, 10, 0.0), Window(100, 100, 0.0))
    assert is_granted(await store.reserve("s", "2", "k", Amounts(1, 100, 5, 1)))


async def test_usage_above_the_reservation_is_counted_and_remaining_is_never_negative(
    store: LimitStore,
):
    await store.set_limits({"k": KeyLimits(tokens_per_minute=100)})
    await store.reserve("s", "1", "k", Amounts(tokens=90))
    await store.settle("1", Amounts(tokens=120))
    tokens = (await read_status(store)).tokens
    exceeded = exceeded_in(await store.reserve("s", "2", "k", Amounts(tokens=1)))

    assert tokens is not None
    assert tokens.remaining == 0
    assert exceeded.used == 120


@pytest.mark.parametrize(
    ("limits", "limited"),
    [
        (KeyLimits(tokens_per_minute=100), "tokens"),
        (KeyLimits(tokens_per_day=100), "day"),
        (KeyLimits(tokens_per_month=100), "month"),
    ],
)
async def test_text_request_is_refused_at_admission_when_no_tokens_are_left(
    store: LimitStore, limits: KeyLimits, limited: str
):
    await store.set_limits({"k": limits})
    before = await store.reserve("s", "1", "k", REQUEST)
    await store.reserve("s", "2", "k", Amounts(tokens=100))
    uncounted = exceeded_in(await store.reserve("s", "3", "k", REQUEST))
    image = await store.reserve("s", "4", "k", Amounts(requests=1, images=1, concurrent=1))

    assert is_granted(before)
    assert (uncounted.limit_name, uncounted.used) == (limited, 100)
    assert is_granted(image)


async def test_token_reservation_needs_no_free_request(store: LimitStore):
    """Their request was counted when it was admitted."""
    await store.set_limits({"k": KeyLimits(requests_per_minute=1, concurrent_requests=1)})
    await store.reserve("s", "1", "k", REQUEST)

    assert is_granted(await store.reserve("t", "2", "k", Amounts(tokens=100)))


async def test_quota_counts_used_and_reserved_tokens(store: LimitStore):
    await store.set_limits({"k": KeyLimits(tokens_per_day=100, tokens_per_month=1000)})
    await store.set_quota_usage({"k": (50, 50)})
    await store.add_quota_usage("k", time.time(), 20)
    await store.reserve("s", "1", "k", Amounts(tokens=20))
    refused = exceeded_in(await store.reserve("s", "2", "k", Amounts(tokens=11)))
    await store.add_quota_usage("k", time.time(), 5)
    await store.settle("1", Amounts(tokens=5))
    granted = await store.reserve("s", "2", "k", Amounts(tokens=25))

    assert refused == LimitExceeded("day", 100, 90, 11, None, RateLimitStatus())
    assert is_granted(granted)


async def test_monthly_quota_is_checked_before_the_daily_one(store: LimitStore):
    await store.set_limits({"k": KeyLimits(tokens_per_day=100, tokens_per_month=100)})
    await store.set_quota_usage({"k": (100, 100)})

    assert exceeded_in(await store.reserve("s", "1", "k", Amounts(tokens=1))).limit_name == "month"


async def test_dropped_session_frees_its_concurrency_but_not_its_tokens(store: LimitStore):
    await store.set_limits({"k": KeyLimits(tokens_per_minute=100, concurrent_requests=1)})
    await store.reserve("s", "1", "k", Amounts(tokens=40, concurrent=1))
    await store.drop_session("s")
    await store.drop_session("unknown")
    await store.settle("1", Amounts())
    counts = await store.stats()
    status = await store.reserve("t", "2", "k", Amounts(concurrent=1))

    assert counts == NOTHING_OPEN
    assert isinstance(status, RateLimitStatus)
    assert status.tokens is not None
    assert status.tokens.remaining == 60
    assert await store.sessions() == ["t"]


async def test_restored_session_keeps_the_reservations_it_names(store: LimitStore):
    await store.set_limits({"k": KeyLimits(tokens_per_minute=100, concurrent_requests=3)})
    kept, gone, pending = (Reservation(id_, "k", Amounts(tokens=10, concurrent=1)) for id_ in "123")
    for each in (kept, gone, pending):
        await store.reserve("s", each.id, "k", each.amounts)
    await store.restore_session("s", [kept], [pending.id])
    repeated = await store.reserve("s", pending.id, "k", pending.amounts)
    counts = await store.stats()
    exceeded = exceeded_in(await store.reserve("t", "4", "k", Amounts(concurrent=2)))

    assert isinstance(repeated, RateLimitStatus)
    assert repeated.tokens is not None
    assert repeated.tokens.remaining == 70
    assert counts == {"sessions": 1, "reservations": 2, "concurrent": 2, "open_tokens": 20}
    assert (exceeded.limit_name, exceeded.used) == ("concurrent", 2)


async def test_unknown_reservations_are_restored_even_over_the_limits(store: LimitStore):
    await store.set_limits({"k": KeyLimits(tokens_per_minute=100, concurrent_requests=1)})
    reservations = [
        Reservation(str(number), "k", Amounts(tokens=80, concurrent=1)) for number in range(2)
    ]
    await store.restore_session("s", [*reservations, Reservation("free", "unlimited", REQUEST)])
    exceeded = exceeded_in(await store.reserve("t", "t", "k", Amounts(concurrent=1)))
    counts = await store.stats()
    await store.settle("0", Amounts(tokens=10))
    await store.settle("1", Amounts(tokens=10))
    tokens = (await read_status(store)).tokens

    assert exceeded.used == 2
    assert counts == {"sessions": 1, "reservations": 2, "concurrent": 2, "open_tokens": 160}
    assert await store.stats() == NOTHING_OPEN
    assert tokens is not None
    assert tokens.remaining == 80


async def test_keys_do_not_share_limits(store: LimitStore):
    await store.set_limits(dict.fromkeys("ab", KeyLimits(1, 10, 1, 1, 10, 10)))
    await store.reserve("s", "1", "a", Amounts(1, 10, 1, 1))
    await store.add_quota_usage("a", time.time(), 10)

    assert is_granted(await store.reserve("s", "2", "b", Amounts(1, 10, 1, 1)))


async def test_large_amounts_are_exact(store: LimitStore):
    limit = 9_000_000_000_000
    await store.set_limits({"k": KeyLimits(tokens_per_minute=limit, tokens_per_month=limit)})
    await store.reserve("s", "1", "k", Amounts(tokens=limit - 1))
    await store.reserve("s", "2", "k", Amounts(tokens=1))
    full = exceeded_in(await store.reserve("s", "3", "k", Amounts(tokens=1)))
    await store.settle("1", Amounts(tokens=limit - 3))
    tokens = (await read_status(store)).tokens

    assert full.used == limit
    assert tokens is not None
    assert tokens.remaining == 2


async def test_renewing_and_flushing_change_nothing(store: LimitStore):
    await store.set_limits({"k": KeyLimits(concurrent_requests=1)})
    await store.reserve("s", "1", "k", REQUEST)
    await store.renew("s")
    await store.renew("unknown")
    await store.flush()

    assert (await store.stats())["concurrent"] == 1
    assert not is_granted(await store.reserve("s", "2", "k", REQUEST))
