"""What both stores do alike, on their own clocks."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from api.ports.rate_limits import Amounts, LimitExceeded, RateLimitStatus, Window
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits.accounts import Accounts, Reservation
from deployments.ledger.limits.redis_accounts import RedisAccounts
from deployments.ledger.limits.sqlite_state import SqliteState
from deployments.ledger.limits.store import LimitStore, LocalStore

REQUEST = Amounts(requests=1, slots=1)
NOTHING = {"sessions": 0, "holds": 0, "slots": 0, "open_tokens": 0}


@pytest.fixture(params=["local", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LimitStore]:
    store: LimitStore
    if request.param == "local":
        state = SqliteState(tmp_path / "limits.db")
        store = LocalStore(Accounts(state), state)
    else:
        port = request.getfixturevalue("redis_port")
        store = RedisAccounts(f"redis://127.0.0.1:{port}", prefix=uuid.uuid4().hex)
    yield store
    await store.close()


def refusal_of(outcome: RateLimitStatus | LimitExceeded) -> LimitExceeded:
    assert isinstance(outcome, LimitExceeded)
    return outcome


def is_granted(outcome: RateLimitStatus | LimitExceeded) -> bool:
    return isinstance(outcome, RateLimitStatus)


@pytest.mark.parametrize(
    ("limits", "each"),
    [
        (KeyLimits(requests_per_minute=10), Amounts(requests=1)),
        (KeyLimits(tokens_per_minute=1009), Amounts(tokens=100)),
        (KeyLimits(images_per_minute=21), Amounts(requests=1, images=2)),
        (KeyLimits(concurrent_requests=10), Amounts(requests=1, slots=1)),
        (KeyLimits(tokens_per_day=1099), Amounts(tokens=100)),
        (KeyLimits(tokens_per_month=1000), Amounts(tokens=100)),
    ],
)
async def test_fifty_at_once_with_ten_left_get_ten(
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
    assert await store.standing("k") == RateLimitStatus()
    await store.settle("1", Amounts())


async def test_all_or_nothing(store: LimitStore):
    await store.set_limits({"k": KeyLimits(requests_per_minute=10, tokens_per_minute=100)})
    refused = await store.reserve("s", "1", "k", Amounts(requests=1, tokens=101))
    standing = await store.standing("k")

    assert refusal_of(refused).limited == "tokens"
    assert standing == RateLimitStatus(Window(10, 10, 0.0), Window(100, 100, 0.0))


async def test_standing_is_as_after_the_grant(store: LimitStore):
    await store.set_limits({"k": KeyLimits(requests_per_minute=10, tokens_per_minute=100)})
    standing = await store.reserve("s", "1", "k", Amounts(requests=1, tokens=30))

    assert isinstance(standing, RateLimitStatus)
    assert standing.requests is not None
    assert standing.tokens is not None
    assert (standing.requests.limit, standing.requests.remaining) == (10, 9)
    assert (standing.tokens.limit, standing.tokens.remaining) == (100, 70)
    assert 58 < standing.tokens.reset_s <= 61


async def test_refusal_says_why_and_when_to_come_back(store: LimitStore):
    await store.set_limits({"k": KeyLimits(tokens_per_minute=100)})
    await store.reserve("s", "1", "k", Amounts(tokens=30))
    await store.reserve("s", "2", "k", Amounts(tokens=60))
    refusal = refusal_of(await store.reserve("s", "3", "k", Amounts(tokens=20)))

    assert (refusal.limited, refusal.limit, refusal.used, refusal.asked) == ("tokens", 100, 90, 20)
    assert refusal.retry_after_s is not None
    assert 58 < refusal.retry_after_s <= 61
    assert refusal.standing.tokens is not None
    assert refusal.standing.tokens.remaining == 10


async def test_waiting_does_not_help_against_what_is_too_large(store: LimitStore):
    await store.set_limits({"k": KeyLimits(images_per_minute=3, concurrent_requests=0)})
    images = refusal_of(await store.reserve("s", "1", "k", Amounts(images=4)))
    slots = refusal_of(await store.reserve("s", "1", "k", Amounts(slots=1)))

    assert (images.limited, images.retry_after_s) == ("images", None)
    assert (slots.limited, slots.retry_after_s) == ("concurrent", None)


async def test_slot_may_be_free_in_a_second(store: LimitStore):
    await store.set_limits({"k": KeyLimits(concurrent_requests=1)})
    await store.reserve("s", "1", "k", REQUEST)
    refusal = refusal_of(await store.reserve("s", "2", "k", REQUEST))

    assert refusal == LimitExceeded("concurrent", 1, 1, 1, 1.0, RateLimitStatus())


async def test_hold_is_taken_once_however_often_it_is_asked_for(store: LimitStore):
    await store.set_limits({"k": KeyLimits(requests_per_minute=1, concurrent_requests=1)})
    first = await store.reserve("s", "1", "k", REQUEST)
    again = await store.reserve("s", "1", "k", REQUEST)
    await store.settle("1", REQUEST)

    assert is_granted(first)
    assert is_granted(again)
    assert await store.stats() == NOTHING


async def test_hold_is_settled_once_however_often_it_ends(store: LimitStore):
    await store.set_limits({"k": KeyLimits(tokens_per_minute=100, concurrent_requests=2)})
    await store.reserve("s", "1", "k", Amounts(tokens=50, slots=1))
    await store.reserve("s", "2", "k", Amounts(tokens=50, slots=1))
    await store.settle("1", Amounts(tokens=40))
    await store.settle("1", Amounts(tokens=40))
    await store.settle("never heard of", Amounts(tokens=40))
    tokens = (await store.standing("k")).tokens

    assert tokens is not None
    assert tokens.remaining == 10
    assert (await store.stats())["slots"] == 1


async def test_all_that_was_not_used_comes_back(store: LimitStore):
    await store.set_limits({"k": KeyLimits(10, 100, 5, 1)})
    await store.reserve("s", "1", "k", Amounts(1, 100, 5, 1))
    await store.settle("1", Amounts())
    standing = await store.standing("k")

    assert standing == RateLimitStatus(Window(10, 10, 0.0), Window(100, 100, 0.0))
    assert is_granted(await store.reserve("s", "2", "k", Amounts(1, 100, 5, 1)))


async def test_more_than_reserved_is_added_and_nothing_gets_negative(store: LimitStore):
    await store.set_limits({"k": KeyLimits(tokens_per_minute=100)})
    await store.reserve("s", "1", "k", Amounts(tokens=90))
    await store.settle("1", Amounts(tokens=120))
    tokens = (await store.standing("k")).tokens
    refusal = refusal_of(await store.reserve("s", "2", "k", Amounts(tokens=1)))

    assert tokens is not None
    assert tokens.remaining == 0
    assert refusal.used == 120


@pytest.mark.parametrize(
    ("limits", "limited"),
    [
        (KeyLimits(tokens_per_minute=100), "tokens"),
        (KeyLimits(tokens_per_day=100), "day"),
        (KeyLimits(tokens_per_month=100), "month"),
    ],
)
async def test_flood_stops_at_the_door_when_no_tokens_are_left(
    store: LimitStore, limits: KeyLimits, limited: str
):
    await store.set_limits({"k": limits})
    before = await store.reserve("s", "1", "k", REQUEST)
    await store.reserve("s", "2", "k", Amounts(tokens=100))
    uncounted = refusal_of(await store.reserve("s", "3", "k", REQUEST))
    picture = await store.reserve("s", "4", "k", Amounts(requests=1, images=1, slots=1))

    assert is_granted(before)
    assert (uncounted.limited, uncounted.used) == (limited, 100)
    assert is_granted(picture)


async def test_tokens_are_not_refused_for_want_of_requests(store: LimitStore):
    """They are of a request that has taken its place already."""
    await store.set_limits({"k": KeyLimits(requests_per_minute=1, concurrent_requests=1)})
    await store.reserve("s", "1", "k", REQUEST)

    assert is_granted(await store.reserve("t", "2", "k", Amounts(tokens=100)))


async def test_quota_counts_what_is_spent_and_what_is_under_way(store: LimitStore):
    await store.set_limits({"k": KeyLimits(tokens_per_day=100, tokens_per_month=1000)})
    await store.set_spent({"k": (50, 50)})
    await store.spend("k", time.time(), 20)
    await store.reserve("s", "1", "k", Amounts(tokens=20))
    refused = refusal_of(await store.reserve("s", "2", "k", Amounts(tokens=11)))
    await store.spend("k", time.time(), 5)
    await store.settle("1", Amounts(tokens=5))
    granted = await store.reserve("s", "2", "k", Amounts(tokens=25))

    assert refused == LimitExceeded("day", 100, 90, 11, None, RateLimitStatus())
    assert is_granted(granted)


async def test_quota_of_the_month_is_looked_at_first(store: LimitStore):
    await store.set_limits({"k": KeyLimits(tokens_per_day=100, tokens_per_month=100)})
    await store.set_spent({"k": (100, 100)})

    assert refusal_of(await store.reserve("s", "1", "k", Amounts(tokens=1))).limited == "month"


async def test_session_that_is_gone_frees_its_slots_only(store: LimitStore):
    await store.set_limits({"k": KeyLimits(tokens_per_minute=100, concurrent_requests=1)})
    await store.reserve("s", "1", "k", Amounts(tokens=40, slots=1))
    await store.drop_session("s")
    await store.drop_session("never heard of")
    await store.settle("1", Amounts())
    counts = await store.stats()
    standing = await store.reserve("t", "2", "k", Amounts(slots=1))

    assert counts == NOTHING
    assert isinstance(standing, RateLimitStatus)
    assert standing.tokens is not None
    assert standing.tokens.remaining == 60
    assert await store.sessions() == ["t"]


async def test_session_that_is_back_keeps_what_it_names(store: LimitStore):
    await store.set_limits({"k": KeyLimits(tokens_per_minute=100, concurrent_requests=3)})
    kept, gone, asked = (Reservation(id_, "k", Amounts(tokens=10, slots=1)) for id_ in "123")
    for hold in (kept, gone, asked):
        await store.reserve("s", hold.id, "k", hold.amounts)
    await store.restore_session("s", [kept], [asked.id])
    repeated = await store.reserve("s", asked.id, "k", asked.amounts)
    counts = await store.stats()
    refusal = refusal_of(await store.reserve("t", "4", "k", Amounts(slots=2)))

    assert isinstance(repeated, RateLimitStatus)
    assert repeated.tokens is not None
    assert repeated.tokens.remaining == 70
    assert counts == {"sessions": 1, "holds": 2, "slots": 2, "open_tokens": 20}
    assert (refusal.limited, refusal.used) == ("concurrent", 2)


async def test_holds_that_are_not_known_are_restored_whatever_the_limits_say(store: LimitStore):
    await store.set_limits({"k": KeyLimits(tokens_per_minute=100, concurrent_requests=1)})
    holds = [Reservation(str(number), "k", Amounts(tokens=80, slots=1)) for number in range(2)]
    await store.restore_session("s", [*holds, Reservation("free", "unlimited", REQUEST)])
    refusal = refusal_of(await store.reserve("t", "t", "k", Amounts(slots=1)))
    counts = await store.stats()
    await store.settle("0", Amounts(tokens=10))
    await store.settle("1", Amounts(tokens=10))
    tokens = (await store.standing("k")).tokens

    assert refusal.used == 2
    assert counts == {"sessions": 1, "holds": 2, "slots": 2, "open_tokens": 160}
    assert await store.stats() == NOTHING
    assert tokens is not None
    assert tokens.remaining == 80


async def test_keys_do_not_share_anything(store: LimitStore):
    await store.set_limits(dict.fromkeys("ab", KeyLimits(1, 10, 1, 1, 10, 10)))
    await store.reserve("s", "1", "a", Amounts(1, 10, 1, 1))
    await store.spend("a", time.time(), 10)

    assert is_granted(await store.reserve("s", "2", "b", Amounts(1, 10, 1, 1)))


async def test_large_amounts_are_exact(store: LimitStore):
    limit = 9_000_000_000_000
    await store.set_limits({"k": KeyLimits(tokens_per_minute=limit, tokens_per_month=limit)})
    await store.reserve("s", "1", "k", Amounts(tokens=limit - 1))
    await store.reserve("s", "2", "k", Amounts(tokens=1))
    full = refusal_of(await store.reserve("s", "3", "k", Amounts(tokens=1)))
    await store.settle("1", Amounts(tokens=limit - 3))
    tokens = (await store.standing("k")).tokens

    assert full.used == limit
    assert tokens is not None
    assert tokens.remaining == 2


async def test_renewing_and_flushing_change_nothing(store: LimitStore):
    await store.set_limits({"k": KeyLimits(concurrent_requests=1)})
    await store.reserve("s", "1", "k", REQUEST)
    await store.renew("s")
    await store.renew("never heard of")
    await store.flush()

    assert (await store.stats())["slots"] == 1
    assert not is_granted(await store.reserve("s", "2", "k", REQUEST))
