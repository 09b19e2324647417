"""The behaviour of the shared store only; the rest is in test_store.py."""

import asyncio
import contextlib
import itertools
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from api.errors import UnavailableError
from api.ports.rate_limits import Amounts, LimitExceeded, RateLimitStatus
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits import redis_scripts
from deployments.ledger.limits.redis_accounts import RedisAccounts, connect
from deployments.ledger.limits.redis_scripts import LEASE_S
from deployments.ledger.limits.sliding_window import COUNTED_S
from deployments.ledger.limits.store import Reservation
from tests.helpers.limits import read_status

LIMITS = {"k": KeyLimits(tokens_per_minute=100, concurrent_requests=1)}
AMOUNTS = Amounts(tokens=10, concurrent=1)

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
    """Each store has its own connections, as in its own process."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one() -> RedisAccounts:
            redis = connect(f"redis://127.0.0.1:{redis_port}", timeout_s=10)
            await stack.enter_async_context(redis)
            accounts = RedisAccounts(redis, prefix)
            await accounts.set_limits(LIMITS)
            return accounts

        yield open_one


async def end_lease(redis: Redis, prefix: str, session: str) -> None:
    """Let the session's lease lapse."""
    await redis.zadd(f"{{{prefix}:k}}:leases", {session: time.time() - 1})


async def is_free(accounts: RedisAccounts) -> bool:
    return isinstance(
        await accounts.reserve("other", "other", "k", Amounts(concurrent=1)), RateLimitStatus
    )


async def tokens_left(accounts: RedisAccounts) -> int:
    tokens = (await read_status(accounts)).tokens
    assert tokens is not None
    return tokens.remaining


@pytest.mark.parametrize(
    ("limits", "each"),
    [
        (KeyLimits(requests_per_minute=10), Amounts(requests=1)),
        (KeyLimits(tokens_per_minute=1009), Amounts(tokens=100)),
        (KeyLimits(concurrent_requests=10), Amounts(requests=1, concurrent=1)),
    ],
)
async def test_of_fifty_concurrent_reservations_over_three_ledgers_exactly_ten_fit(
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


async def test_more_calls_than_connections_are_queued(open_accounts: Opener):
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
    exceeded = await accounts.reserve("s", "1", "k", Amounts(tokens=60))

    assert isinstance(exceeded, LimitExceeded)
    assert exceeded.used == 50
    assert exceeded.retry_after_s is not None
    assert 28 < exceeded.retry_after_s <= COUNTED_S - 30
    assert list(await redis.hgetall(windows)) == [f"tokens:{seconds - 30}"]


async def test_clock_that_goes_back_an_hour_locks_nobody_out(
    open_accounts: Opener, redis: Redis, prefix: str
):
    accounts = await open_accounts()
    windows = f"{{{prefix}:k}}:windows"
    seconds, _ = await redis.time()
    await redis.hset(windows, f"tokens:{seconds + 3600}", "100")
    granted = await accounts.reserve("s", "1", "k", Amounts(tokens=60))

    assert isinstance(granted, RateLimitStatus)
    assert granted.tokens is not None
    assert granted.tokens.reset_s <= COUNTED_S
    assert f"tokens:{seconds + 3600}" not in await redis.hgetall(windows)


async def test_session_that_died_before_the_clock_went_back_lapses_within_its_lease(
    open_accounts: Opener, redis: Redis, prefix: str
):
    accounts = await open_accounts()
    leases = f"{{{prefix}:k}}:leases"
    await accounts.reserve("dead", "1", "k", Amounts(concurrent=1))
    seconds, _ = await redis.time()
    await redis.zadd(leases, {"dead": seconds + 3600})
    await accounts.reserve("s", "2", "k", Amounts(requests=1))
    lapses_s = await redis.zscore(leases, "dead")

    assert lapses_s is not None
    assert lapses_s <= (await redis.time())[0] + LEASE_S + 1


async def test_wait_lasts_until_enough_buckets_are_old(
    open_accounts: Opener, redis: Redis, prefix: str
):
    accounts = await open_accounts()
    seconds, _ = await redis.time()
    ages = {50: 20, 40: 20, 30: 20, 20: 20}
    buckets: dict[Any, Any] = {
        f"tokens:{seconds - age_s}": str(amount) for age_s, amount in ages.items()
    }
    await redis.hset(f"{{{prefix}:k}}:windows", mapping=buckets)
    exceeded = await accounts.reserve("s", "1", "k", Amounts(tokens=50))

    assert isinstance(exceeded, LimitExceeded)
    assert exceeded.retry_after_s is not None
    assert COUNTED_S - 42 < exceeded.retry_after_s <= COUNTED_S - 40


async def test_reservations_of_a_lapsed_session_are_freed(
    open_accounts: Opener, redis: Redis, prefix: str
):
    dead, alive = await open_accounts(), await open_accounts()
    await dead.reserve("s", "1", "k", AMOUNTS)
    before = await is_free(alive)
    await end_lease(redis, prefix, "s")

    assert not before
    assert await is_free(alive)
    assert await tokens_left(alive) == 90


async def test_reserving_and_renewing_extend_the_lease(
    open_accounts: Opener, redis: Redis, prefix: str
):
    accounts = await open_accounts()
    await accounts.reserve("s", "1", "k", AMOUNTS)
    seconds, _ = await redis.time()
    until_s = await redis.zscore(f"{{{prefix}:k}}:leases", "s")
    await end_lease(redis, prefix, "s")
    await accounts.renew("s")
    renewed_s = await redis.zscore(f"{{{prefix}:k}}:leases", "s")

    assert until_s is not None
    assert renewed_s is not None
    assert seconds + 3 < until_s <= seconds + 1 + redis_scripts.LEASE_S
    assert renewed_s >= until_s


async def test_lapsed_session_that_reserves_again_keeps_its_reservations(
    open_accounts: Opener, redis: Redis, prefix: str
):
    accounts = await open_accounts()
    await accounts.reserve("s", "1", "k", AMOUNTS)
    await end_lease(redis, prefix, "s")
    await accounts.reserve("s", "2", "k", Amounts(tokens=1))

    assert not await is_free(accounts)
    assert await tokens_left(accounts) == 89


async def test_lapsed_session_regains_freed_reservations_when_it_renews(
    open_accounts: Opener, redis: Redis, prefix: str
):
    """Even over the limit, because its request is in flight."""
    slow, other = await open_accounts(), await open_accounts()
    await slow.reserve("s", "1", "k", AMOUNTS)
    await end_lease(redis, prefix, "s")
    await is_free(other)
    await slow.renew("s")
    exceeded = await other.reserve("t", "t", "k", Amounts(concurrent=1))
    await slow.settle("1", Amounts(tokens=10))
    await other.settle("other", Amounts())

    assert isinstance(exceeded, LimitExceeded)
    assert exceeded.used == 2
    assert await is_free(other)


async def test_restarted_ledger_takes_over_the_reservations(open_accounts: Opener):
    last, new = await open_accounts(), await open_accounts()
    await last.reserve("s", "1", "k", AMOUNTS)
    await new.restore_session("s", [Reservation("1", "k", AMOUNTS)])
    left = await tokens_left(new)
    await new.settle("1", Amounts(tokens=4))

    assert left == 90
    assert await tokens_left(new) == 96
    assert await is_free(new)


async def test_setting_quota_usage_keeps_the_larger_number(open_accounts: Opener):
    first, second = await open_accounts(), await open_accounts()
    for accounts in (first, second):
        await accounts.set_limits({"k": KeyLimits(tokens_per_day=100)})
    await first.set_quota_usage({"k": (10, 10)})
    await first.add_quota_usage("k", time.time(), 50)
    await second.set_quota_usage({"k": (20, 20)})
    exceeded = await second.reserve("s", "1", "k", Amounts(tokens=50))

    assert isinstance(exceeded, LimitExceeded)
    assert exceeded.used == 60


async def test_redis_keys_of_an_account_share_a_hash_tag_and_expire(
    open_accounts: Opener, redis: Redis, prefix: str
):
    accounts = await open_accounts()
    await accounts.set_quota_usage({"k": (1, 1)})
    await accounts.add_quota_usage("k", time.time(), 1)
    await accounts.reserve("s", "1", "k", Amounts(1, 1, 1, 1))
    names = [name async for name in redis.scan_iter(f"*{prefix}*")]

    assert len(names) == 6
    assert {name.split("}")[0] for name in names} == {f"{{{prefix}:k"}
    assert all([await redis.ttl(name) > 0 for name in names])


async def test_settled_reservation_leaves_nothing_in_redis(
    open_accounts: Opener, redis: Redis, prefix: str
):
    accounts = await open_accounts()
    await accounts.reserve("s", "1", "k", AMOUNTS)
    await accounts.settle("1", Amounts())

    assert await redis.hgetall(f"{{{prefix}:k}}:open") == {"slots": "0", "tokens": "0"}
    assert not await redis.exists(f"{{{prefix}:k}}:holds", f"{{{prefix}:k}}:windows")


async def test_unreachable_redis_raises_unavailable():
    async with connect("redis://127.0.0.1:9") as redis:
        accounts = RedisAccounts(redis)
        await accounts.set_limits(LIMITS)

        with pytest.raises(UnavailableError, match="cannot be checked at the moment") as caught:
            await accounts.reserve("s", "1", "k", AMOUNTS)
    assert caught.value.__cause__ is not None


class UnreliableRedis:
    """Redis over a connection that fails for one script, before or after the script has run."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._failing: str | None = None
        self._runs = False

    def register_script(self, script: str) -> Any:
        run = self._redis.register_script(script)

        async def call(keys: list[str], args: list[str]) -> Any:
            if script != self._failing:
                return await run(keys, args)
            if self._runs:
                await run(keys, args)
            raise RedisConnectionError

        return call

    @contextlib.contextmanager
    def failing(self, script: str, *, runs: bool) -> Iterator[None]:
        self._failing, self._runs = script, runs
        yield
        self._failing = None


@pytest.fixture
async def unreliable(redis_port: int) -> AsyncIterator[UnreliableRedis]:
    async with connect(f"redis://127.0.0.1:{redis_port}") as redis:
        yield UnreliableRedis(redis)


@pytest.fixture
async def accounts(unreliable: Any, prefix: str) -> RedisAccounts:
    """A store with an unreliable connection."""
    accounts = RedisAccounts(unreliable, prefix)
    await accounts.set_limits(LIMITS)
    return accounts


@pytest.mark.parametrize("runs", [True, False])
async def test_failed_settlement_is_made_with_the_next_renewal(
    accounts: RedisAccounts, unreliable: UnreliableRedis, runs: bool
):
    await accounts.reserve("s", "1", "k", AMOUNTS)
    with unreliable.failing(redis_scripts.SETTLE, runs=runs):
        await accounts.settle("1", Amounts(tokens=4))
    await accounts.renew("s")

    assert await tokens_left(accounts) == 96
    assert await is_free(accounts)


async def test_grant_whose_answer_was_lost_is_refunded_with_the_next_renewal(
    accounts: RedisAccounts, unreliable: UnreliableRedis
):
    with unreliable.failing(redis_scripts.RESERVE, runs=True), pytest.raises(UnavailableError):
        await accounts.reserve("s", "1", "k", AMOUNTS)
    before = await is_free(accounts)
    await accounts.renew("s")

    assert not before
    assert await tokens_left(accounts) == 100
    assert await is_free(accounts)


async def test_reservation_is_kept_when_repeating_it_fails(
    accounts: RedisAccounts, unreliable: UnreliableRedis
):
    await accounts.reserve("s", "1", "k", AMOUNTS)
    with unreliable.failing(redis_scripts.RESERVE, runs=False), pytest.raises(UnavailableError):
        await accounts.reserve("s", "1", "k", AMOUNTS)
    await accounts.renew("s")

    assert not await is_free(accounts)
    assert await tokens_left(accounts) == 90


async def test_reservation_settled_while_it_is_restored_ends(
    open_accounts: Opener, redis: Redis, prefix: str
):
    accounts, other = await open_accounts(), await open_accounts()
    await accounts.reserve("s", "1", "k", AMOUNTS)
    await end_lease(redis, prefix, "s")
    await is_free(other)
    await other.settle("other", Amounts())
    renewing = asyncio.create_task(accounts.renew("s"))
    await asyncio.sleep(0)
    await asyncio.gather(renewing, accounts.settle("1", Amounts()))
    await accounts.renew("s")

    assert await is_free(other)
