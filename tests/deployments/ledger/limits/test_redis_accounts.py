"""What only the shared store does; the rest is in test_store.py."""

import asyncio
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisAway

from api.errors import UnavailableError
from api.ports.rate_limits import Amounts, LimitExceeded, RateLimitStatus
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits import redis_scripts
from deployments.ledger.limits.accounts import Reservation
from deployments.ledger.limits.redis_accounts import RedisAccounts
from deployments.ledger.limits.sliding_window import COUNTED_S

LIMITS = {"k": KeyLimits(tokens_per_minute=100, concurrent_requests=1)}
ASKED = Amounts(tokens=10, slots=1)

Opener = Callable[[], Awaitable[RedisAccounts]]


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture
async def redis(redis_port: int) -> AsyncIterator[Redis]:
    async with Redis(port=redis_port, decode_responses=True) as redis:
        yield redis


@pytest.fixture
async def open_accounts(redis_port: int, prefix: str) -> AsyncIterator[Opener]:
    """Each as if in a process of its own."""
    opened: list[RedisAccounts] = []

    async def open_one() -> RedisAccounts:
        accounts = RedisAccounts(f"redis://127.0.0.1:{redis_port}", prefix)
        await accounts.set_limits(LIMITS)
        opened.append(accounts)
        return accounts

    yield open_one
    for accounts in opened:
        await accounts.close()


async def end_lease(redis: Redis, prefix: str, session: str) -> None:
    """As if the session had said nothing for long."""
    await redis.zadd(f"{{{prefix}:k}}:leases", {session: time.time() - 1})


async def is_free(accounts: RedisAccounts) -> bool:
    return isinstance(
        await accounts.reserve("other", "other", "k", Amounts(slots=1)), RateLimitStatus
    )


async def tokens_left(accounts: RedisAccounts) -> int:
    tokens = (await accounts.standing("k")).tokens
    assert tokens is not None
    return tokens.remaining


@pytest.mark.parametrize(
    ("limits", "each"),
    [
        (KeyLimits(requests_per_minute=10), Amounts(requests=1)),
        (KeyLimits(tokens_per_minute=1009), Amounts(tokens=100)),
        (KeyLimits(concurrent_requests=10), Amounts(requests=1, slots=1)),
    ],
)
async def test_fifty_at_once_over_three_processes_get_ten(
    open_accounts: Opener, limits: KeyLimits, each: Amounts
):
    processes = [await open_accounts() for _ in range(3)]
    for accounts in processes:
        await accounts.set_limits({"k": limits})
    outcomes = await asyncio.gather(
        *(
            accounts.reserve("s", str(number), "k", each)
            for number, accounts in zip(range(50), itertools.cycle(processes), strict=False)
        )
    )

    assert sum(isinstance(outcome, RateLimitStatus) for outcome in outcomes) == 10


async def test_many_at_once_wait_for_their_turn(open_accounts: Opener):
    accounts = await open_accounts()
    await accounts.set_limits({"k": KeyLimits(requests_per_minute=400)})
    outcomes = await asyncio.gather(
        *(accounts.reserve("s", str(number), "k", Amounts(requests=1)) for number in range(500))
    )

    assert sum(isinstance(outcome, RateLimitStatus) for outcome in outcomes) == 400


async def test_old_buckets_do_not_count_and_are_deleted(
    open_accounts: Opener, redis: Redis, prefix: str
):
    accounts = await open_accounts()
    windows = f"{{{prefix}:k}}:windows"
    seconds, _ = await redis.time()
    await redis.hset(windows, f"tokens:{seconds - COUNTED_S}", "40")
    await redis.hset(windows, f"tokens:{seconds - 30}", "50")
    refusal = await accounts.reserve("s", "1", "k", Amounts(tokens=60))

    assert isinstance(refusal, LimitExceeded)
    assert refusal.used == 50
    assert refusal.retry_after_s is not None
    assert 28 < refusal.retry_after_s <= COUNTED_S - 30
    assert list(await redis.hgetall(windows)) == [f"tokens:{seconds - 30}"]


async def test_wait_is_until_the_last_bucket_in_the_way_is_gone(
    open_accounts: Opener, redis: Redis, prefix: str
):
    accounts = await open_accounts()
    seconds, _ = await redis.time()
    ages = {50: 20, 40: 20, 30: 20, 20: 20}
    buckets: dict[Any, Any] = {
        f"tokens:{seconds - age_s}": str(amount) for age_s, amount in ages.items()
    }
    await redis.hset(f"{{{prefix}:k}}:windows", mapping=buckets)
    refusal = await accounts.reserve("s", "1", "k", Amounts(tokens=50))

    assert isinstance(refusal, LimitExceeded)
    assert refusal.retry_after_s is not None
    assert COUNTED_S - 42 < refusal.retry_after_s <= COUNTED_S - 40


async def test_holds_of_a_lapsed_session_are_freed(
    open_accounts: Opener, redis: Redis, prefix: str
):
    dead, alive = await open_accounts(), await open_accounts()
    await dead.reserve("s", "1", "k", ASKED)
    before = await is_free(alive)
    await end_lease(redis, prefix, "s")

    assert not before
    assert await is_free(alive)
    assert await tokens_left(alive) == 90


async def test_lease_lasts_as_long_as_promised(open_accounts: Opener, redis: Redis, prefix: str):
    accounts = await open_accounts()
    await accounts.reserve("s", "1", "k", ASKED)
    seconds, _ = await redis.time()
    until_s = await redis.zscore(f"{{{prefix}:k}}:leases", "s")
    await end_lease(redis, prefix, "s")
    await accounts.renew("s")
    renewed_s = await redis.zscore(f"{{{prefix}:k}}:leases", "s")

    assert until_s is not None
    assert renewed_s is not None
    assert seconds + 3 < until_s <= seconds + 1 + redis_scripts.LEASE_S
    assert renewed_s >= until_s


async def test_slow_session_keeps_what_nobody_else_wanted(
    open_accounts: Opener, redis: Redis, prefix: str
):
    accounts = await open_accounts()
    await accounts.reserve("s", "1", "k", ASKED)
    await end_lease(redis, prefix, "s")
    await accounts.reserve("s", "2", "k", Amounts(tokens=1))

    assert not await is_free(accounts)
    assert await tokens_left(accounts) == 89


async def test_slow_session_gets_back_what_was_freed(
    open_accounts: Opener, redis: Redis, prefix: str
):
    """Over the limit if need be: the work is under way."""
    slow, other = await open_accounts(), await open_accounts()
    await slow.reserve("s", "1", "k", ASKED)
    await end_lease(redis, prefix, "s")
    await is_free(other)
    await slow.renew("s")
    refusal = await other.reserve("t", "t", "k", Amounts(slots=1))
    await slow.settle("1", Amounts(tokens=10))
    await other.settle("other", Amounts())

    assert isinstance(refusal, LimitExceeded)
    assert refusal.used == 2
    assert await is_free(other)


async def test_new_process_takes_over_the_holds_of_the_last(open_accounts: Opener):
    last, new = await open_accounts(), await open_accounts()
    await last.reserve("s", "1", "k", ASKED)
    await new.restore_session("s", [Reservation("1", "k", ASKED)])
    left = await tokens_left(new)
    await new.settle("1", Amounts(tokens=4))

    assert left == 90
    assert await tokens_left(new) == 96
    assert await is_free(new)


async def test_spent_is_never_less_than_what_was_counted(open_accounts: Opener):
    first, second = await open_accounts(), await open_accounts()
    for accounts in (first, second):
        await accounts.set_limits({"k": KeyLimits(tokens_per_day=100)})
    await first.set_spent({"k": (10, 10)})
    await first.spend("k", time.time(), 50)
    await second.set_spent({"k": (20, 20)})
    refusal = await second.reserve("s", "1", "k", Amounts(tokens=50))

    assert isinstance(refusal, LimitExceeded)
    assert refusal.used == 60


async def test_everything_of_a_key_is_on_one_node_and_ends_by_itself(
    open_accounts: Opener, redis: Redis, prefix: str
):
    accounts = await open_accounts()
    await accounts.set_spent({"k": (1, 1)})
    await accounts.spend("k", time.time(), 1)
    await accounts.reserve("s", "1", "k", Amounts(1, 1, 1, 1))
    names = [name async for name in redis.scan_iter(f"*{prefix}*")]

    assert len(names) == 6
    assert {name.split("}")[0] for name in names} == {f"{{{prefix}:k"}
    assert all([await redis.ttl(name) > 0 for name in names])


async def test_nothing_is_left_of_holds_that_have_ended(
    open_accounts: Opener, redis: Redis, prefix: str
):
    accounts = await open_accounts()
    await accounts.reserve("s", "1", "k", ASKED)
    await accounts.settle("1", Amounts())

    assert await redis.hgetall(f"{{{prefix}:k}}:open") == {"slots": "0", "tokens": "0"}
    assert not await redis.exists(f"{{{prefix}:k}}:holds", f"{{{prefix}:k}}:windows")


async def test_redis_that_is_away_makes_limits_unavailable():
    accounts = RedisAccounts("redis://127.0.0.1:9")
    await accounts.set_limits(LIMITS)

    with pytest.raises(UnavailableError, match="cannot be checked at the moment") as caught:
        await accounts.reserve("s", "1", "k", ASKED)
    assert caught.value.__cause__ is not None
    await accounts.close()


class Away:
    """A Redis that does what it is told, and whose answer does not arrive."""

    def __init__(self, accounts: RedisAccounts, name: str, *, arrives: bool) -> None:
        self._script = getattr(accounts, name)
        self._arrives = arrives

    async def __call__(self, keys: list[str], args: list[str]) -> None:
        if self._arrives:
            await self._script(keys, args)
        raise RedisAway


@pytest.mark.parametrize("arrives", [True, False])
async def test_what_could_not_be_settled_is_settled_later(
    open_accounts: Opener, monkeypatch: pytest.MonkeyPatch, arrives: bool
):
    accounts = await open_accounts()
    await accounts.reserve("s", "1", "k", ASKED)
    with monkeypatch.context() as patch:
        patch.setattr(accounts, "_settle", Away(accounts, "_settle", arrives=arrives))
        await accounts.settle("1", Amounts(tokens=4))
    await accounts.renew("s")

    assert await tokens_left(accounts) == 96
    assert await is_free(accounts)


async def test_grant_whose_answer_was_lost_is_given_back(
    open_accounts: Opener, monkeypatch: pytest.MonkeyPatch
):
    accounts = await open_accounts()
    with monkeypatch.context() as patch:
        patch.setattr(accounts, "_reserve", Away(accounts, "_reserve", arrives=True))
        with pytest.raises(UnavailableError):
            await accounts.reserve("s", "1", "k", ASKED)
    before = await is_free(accounts)
    await accounts.renew("s")

    assert not before
    assert await tokens_left(accounts) == 100
    assert await is_free(accounts)


async def test_hold_is_kept_when_asking_again_fails(
    open_accounts: Opener, monkeypatch: pytest.MonkeyPatch
):
    accounts = await open_accounts()
    await accounts.reserve("s", "1", "k", ASKED)
    with monkeypatch.context() as patch:
        patch.setattr(accounts, "_reserve", Away(accounts, "_reserve", arrives=False))
        with pytest.raises(UnavailableError):
            await accounts.reserve("s", "1", "k", ASKED)
    await accounts.renew("s")

    assert not await is_free(accounts)
    assert await tokens_left(accounts) == 90


async def test_hold_that_was_settled_while_it_was_restored_does_not_stay(
    open_accounts: Opener, redis: Redis, prefix: str
):
    accounts, other = await open_accounts(), await open_accounts()
    await accounts.reserve("s", "1", "k", ASKED)
    await end_lease(redis, prefix, "s")
    await is_free(other)
    await other.settle("other", Amounts())
    renewing = asyncio.create_task(accounts.renew("s"))
    await asyncio.sleep(0)
    await asyncio.gather(renewing, accounts.settle("1", Amounts()))
    await accounts.renew("s")

    assert await is_free(other)
