"""Calls in random order: the store in memory against a model, and against the store in Redis."""

import asyncio
import random
import time
import uuid
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from api.ports.rate_limits import Amounts, LimitExceeded, RateLimitStatus, Window
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits.accounts import Accounts
from deployments.ledger.limits.redis_accounts import RedisAccounts, connect
from deployments.ledger.limits.sliding_window import COUNTED_S, WINDOW_S
from deployments.ledger.limits.store import LimitStore, Reservation
from tests.helpers.limits import NOTHING_OPEN, read_status

T = TypeVar("T")
WINDOWS = ("requests", "tokens", "images", "pixel_steps")
LIMITS = st.integers(0, 12)


class Machine(RuleBasedStateMachine):
    """Compares the store with a model that remembers every granted unit."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.runner = asyncio.Runner()
        self.accounts = Accounts(None, lambda: self.now_s)
        self.limits = KeyLimits(5, 10, 3, 4, None, None, 9)
        self.run(self.accounts.set_limits({"k": self.limits}))
        self.taken: dict[str, list[float]] = {name: [] for name in WINDOWS}
        """When each unit was taken."""
        self.open: dict[str, tuple[str, Amounts, float]] = {}
        self.last_id = 0

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Rules are synchronous."""
        return self.runner.run(call)

    @rule(pause_s=st.one_of(st.floats(0, 3), st.floats(0, 70)))
    def wait(self, pause_s: float) -> None:
        self.now_s += pause_s

    @rule(
        limits=st.builds(
            KeyLimits,
            LIMITS,
            LIMITS,
            LIMITS,
            st.integers(1, 5),
            pixel_steps_per_minute=LIMITS,
        )
    )
    def change(self, limits: KeyLimits) -> None:
        self.limits = limits
        self.run(self.accounts.set_limits({"k": limits}))

    @rule(
        session=st.sampled_from("xyz"),
        amounts=st.builds(
            Amounts,
            st.integers(0, 1),
            st.integers(0, 12),
            st.integers(0, 4),
            st.integers(0, 1),
            st.integers(0, 9),
        ),
    )
    def reserve(self, session: str, amounts: Amounts) -> None:
        self.last_id += 1
        reservation_id = str(self.last_id)
        outcome = self.run(self.accounts.reserve(session, reservation_id, "k", amounts))

        assert isinstance(outcome, RateLimitStatus) == self.fits(amounts)
        if isinstance(outcome, RateLimitStatus):
            self.open[reservation_id] = (session, amounts, self.now_s)
            for name in WINDOWS:
                self.taken[name] += [self.now_s] * getattr(amounts, name)
                limit = getattr(self.limits, f"{name}_per_minute")
                used = sum(at > self.now_s - WINDOW_S for at in self.taken[name])
                assert not getattr(amounts, name) or used <= limit

    def fits(self, amounts: Amounts) -> bool:
        used = {
            name: sum(int(at) + COUNTED_S > self.now_s for at in self.taken[name])
            for name in WINDOWS
        }
        concurrent = sum(each.concurrent for _, each, _ in self.open.values())
        is_uncounted = amounts.requests and not amounts.tokens and not amounts.images
        tokens = 1 if is_uncounted else amounts.tokens
        requested = (
            amounts.requests,
            tokens,
            amounts.images,
            amounts.pixel_steps,
            amounts.concurrent,
        )
        limits = (
            self.limits.requests_per_minute,
            self.limits.tokens_per_minute,
            self.limits.images_per_minute,
            self.limits.pixel_steps_per_minute,
            self.limits.concurrent_requests,
        )
        return all(
            not amount or used_now + amount <= (limit or 0)
            for used_now, amount, limit in zip(
                (*used.values(), concurrent), requested, limits, strict=True
            )
        )

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        reservation_id = data.draw(st.sampled_from(sorted(self.open)))
        session, amounts, _ = self.open[reservation_id]
        before = self.run(self.accounts.stats())
        again = self.run(self.accounts.reserve(session, reservation_id, "k", amounts))

        assert isinstance(again, RateLimitStatus)
        assert self.run(self.accounts.stats()) == before

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        reservation_id = data.draw(st.sampled_from(sorted(self.open)))
        _, amounts, at = self.open.pop(reservation_id)
        used = {name: data.draw(st.integers(0, getattr(amounts, name))) for name in WINDOWS}
        self.run(self.accounts.settle(reservation_id, Amounts(**used)))
        self.run(self.accounts.settle(reservation_id, Amounts()))
        for name in WINDOWS:
            for _ in range(getattr(amounts, name) - used[name]):
                self.taken[name].remove(at)

    @rule(session=st.sampled_from("xyz"))
    def drop(self, session: str) -> None:
        self.run(self.accounts.drop_session(session))
        self.open = {id_: each for id_, each in self.open.items() if each[0] != session}

    @rule(session=st.sampled_from("xyz"), data=st.data())
    def reconnect(self, session: str, data: st.DataObject) -> None:
        ours = {id_: each for id_, each in self.open.items() if each[0] == session}
        kept = data.draw(st.sets(st.sampled_from(sorted(ours)))) if ours else set()
        reservations = [Reservation(id_, "k", ours[id_][1]) for id_ in sorted(kept)]
        self.run(self.accounts.restore_session(session, reservations))
        for reservation_id in ours.keys() - kept:
            del self.open[reservation_id]

    @rule()
    def flush(self) -> None:
        self.run(self.accounts.flush())

    @invariant()
    def counts_what_is_open(self) -> None:
        amounts = [each for _, each, _ in self.open.values()]
        assert self.run(self.accounts.stats()) == {
            "sessions": len({session for session, _, _ in self.open.values()}),
            "reservations": len(amounts),
            "concurrent": sum(each.concurrent for each in amounts),
            "open_tokens": sum(each.tokens for each in amounts),
        }

    @invariant()
    def nothing_is_negative(self) -> None:
        status = self.run(read_status(self.accounts))
        windows = [window for window in (status.requests, status.tokens) if window]
        assert all(0 <= window.remaining <= window.limit for window in windows)
        assert all(0 <= window.reset_s <= COUNTED_S for window in windows)

    def teardown(self) -> None:
        for reservation_id in self.open:
            self.run(self.accounts.settle(reservation_id, Amounts()))
        assert self.run(self.accounts.stats()) == NOTHING_OPEN
        self.runner.close()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=50)


def random_steps(chance: random.Random) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Calls in random order, for a few reservations of a few sessions."""
    for _ in range(300):
        session, number = chance.choice("xyz"), chance.randint(0, 30)
        id_ = f"{session}{number}"
        amounts = Amounts(number % 2, number * 7 % 41, number % 3, number % 5 % 2)
        used = Amounts(chance.randint(0, 1), chance.randint(0, 45), chance.randint(0, 2))
        yield chance.choice(
            [
                ("reserve", (session, id_, "k", amounts)),
                ("reserve", (session, id_, "k", amounts)),
                ("settle", (id_, used)),
                ("settle", (id_, used)),
                ("drop_session", (session,)),
                ("restore_session", (session, [Reservation(id_, "k", amounts)])),
                ("renew", (session,)),
                ("add_quota_usage", ("k", time.time(), chance.randint(0, 3))),
            ]
        )


def without_times(outcome: object) -> object:
    """The parts of an outcome that do not depend on the store's clock."""
    match outcome:
        case LimitExceeded(status=status, retry_after_s=retry_after_s):
            plain = replace(outcome, status=RateLimitStatus(), retry_after_s=None)
            return (plain, without_times(status), retry_after_s is None)
        case RateLimitStatus(requests=Window(remaining=requests), tokens=Window(remaining=tokens)):
            return (requests, tokens)
    return outcome


@pytest.mark.parametrize("seed", range(5))
async def test_both_stores_answer_alike(redis_port: int, seed: int):
    async with connect(f"redis://127.0.0.1:{redis_port}") as redis:
        shared, local = RedisAccounts(redis, uuid.uuid4().hex), Accounts()
        stores: list[LimitStore] = [shared, local]
        for store in stores:
            await store.set_limits({"k": KeyLimits(40, 500, 20, 5, 700, 600)})
        for call, arguments in random_steps(random.Random(seed)):
            outcomes = [await getattr(store, call)(*arguments) for store in stores]
            statuses = [await read_status(store) for store in stores]

            assert without_times(outcomes[0]) == without_times(outcomes[1]), (call, arguments)
            assert without_times(statuses[0]) == without_times(statuses[1]), (call, arguments)
            assert await shared.stats() == await local.stats()
