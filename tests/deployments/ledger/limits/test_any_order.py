"""Steps in any order: against a model, and one store against the other."""

import random
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from api.ports.rate_limits import Amounts, LimitExceeded, RateLimitStatus, Window
from api.ports.tenancy import KeyLimits
from deployments.ledger.limits.accounts import Accounts, Reservation
from deployments.ledger.limits.redis_accounts import RedisAccounts
from deployments.ledger.limits.sliding_window import COUNTED_S, WINDOW_S
from deployments.ledger.limits.store import LimitStore, LocalStore

KINDS = ("requests", "tokens", "images")
LIMITS = st.integers(0, 12)


class Machine(RuleBasedStateMachine):
    """Against a model that remembers everything that was ever granted."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.accounts = Accounts(None, lambda: self.now_s)
        self.limits = KeyLimits(5, 10, 3, 4, None, None)
        self.accounts.set_limits({"k": self.limits})
        self.taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
        """When each unit was taken."""
        self.open: dict[str, tuple[str, Amounts, float]] = {}
        self.last_id = 0

    @rule(pause_s=st.one_of(st.floats(0, 3), st.floats(0, 70)))
    def wait(self, pause_s: float) -> None:
        self.now_s += pause_s

    @rule(limits=st.builds(KeyLimits, LIMITS, LIMITS, LIMITS, st.integers(1, 5)))
    def change(self, limits: KeyLimits) -> None:
        self.limits = limits
        self.accounts.set_limits({"k": limits})

    @rule(
        session=st.sampled_from("xyz"),
        asked=st.builds(
            Amounts, st.integers(0, 1), st.integers(0, 12), st.integers(0, 4), st.integers(0, 1)
        ),
    )
    def reserve(self, session: str, asked: Amounts) -> None:
        self.last_id += 1
        hold_id = str(self.last_id)
        outcome = self.accounts.reserve(session, hold_id, "k", asked)

        assert isinstance(outcome, RateLimitStatus) == self.fits(asked)
        if isinstance(outcome, RateLimitStatus):
            self.open[hold_id] = (session, asked, self.now_s)
            for kind in KINDS:
                self.taken[kind] += [self.now_s] * getattr(asked, kind)
                limit = getattr(self.limits, f"{kind}_per_minute")
                used = sum(at > self.now_s - WINDOW_S for at in self.taken[kind])
                assert not getattr(asked, kind) or used <= limit

    def fits(self, asked: Amounts) -> bool:
        used = {
            kind: sum(int(at) + COUNTED_S > self.now_s for at in self.taken[kind]) for kind in KINDS
        }
        slots = sum(held.slots for _, held, _ in self.open.values())
        is_uncounted = asked.requests and not asked.tokens and not asked.images
        tokens = 1 if is_uncounted else asked.tokens
        wanted = ((*used.values(), slots), (asked.requests, tokens, asked.images, asked.slots))
        limits = (
            self.limits.requests_per_minute,
            self.limits.tokens_per_minute,
            self.limits.images_per_minute,
            self.limits.concurrent_requests,
        )
        return all(
            not amount or there + amount <= (limit or 0)
            for there, amount, limit in zip(*wanted, limits, strict=True)
        )

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        hold_id = data.draw(st.sampled_from(sorted(self.open)))
        session, asked, _ = self.open[hold_id]
        before = self.accounts.stats()
        again = self.accounts.reserve(session, hold_id, "k", asked)

        assert isinstance(again, RateLimitStatus)
        assert self.accounts.stats() == before

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        hold_id = data.draw(st.sampled_from(sorted(self.open)))
        _, asked, at = self.open.pop(hold_id)
        used = {kind: data.draw(st.integers(0, getattr(asked, kind))) for kind in KINDS}
        self.accounts.settle(hold_id, Amounts(**used))
        self.accounts.settle(hold_id, Amounts())
        for kind in KINDS:
            for _ in range(getattr(asked, kind) - used[kind]):
                self.taken[kind].remove(at)

    @rule(session=st.sampled_from("xyz"))
    def drop(self, session: str) -> None:
        self.accounts.drop_session(session)
        self.open = {id_: held for id_, held in self.open.items() if held[0] != session}

    @rule(session=st.sampled_from("xyz"), data=st.data())
    def come_back(self, session: str, data: st.DataObject) -> None:
        ours = {id_: held for id_, held in self.open.items() if held[0] == session}
        kept = data.draw(st.sets(st.sampled_from(sorted(ours)))) if ours else set()
        self.accounts.restore_session(
            session, [Reservation(id_, "k", ours[id_][1]) for id_ in sorted(kept)]
        )
        for hold_id in ours.keys() - kept:
            del self.open[hold_id]

    @rule()
    def tidy(self) -> None:
        self.accounts.tidy()

    @invariant()
    def counts_what_is_open(self) -> None:
        held = [amounts for _, amounts, _ in self.open.values()]
        assert self.accounts.stats() == {
            "sessions": len({session for session, _, _ in self.open.values()}),
            "holds": len(held),
            "slots": sum(amounts.slots for amounts in held),
            "open_tokens": sum(amounts.tokens for amounts in held),
        }

    @invariant()
    def nothing_is_negative(self) -> None:
        standing = self.accounts.standing("k")
        windows = [window for window in (standing.requests, standing.tokens) if window]
        assert all(0 <= window.remaining <= window.limit for window in windows)
        assert all(0 <= window.reset_s <= COUNTED_S for window in windows)

    def teardown(self) -> None:
        for hold_id in self.open:
            self.accounts.settle(hold_id, Amounts())
        assert self.accounts.stats() == {"sessions": 0, "holds": 0, "slots": 0, "open_tokens": 0}


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def random_steps(chance: random.Random) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Calls in any order, of a few holds of a few sessions."""
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
                ("spend", ("k", time.time(), chance.randint(0, 3))),
                ("standing", ("k",)),
            ]
        )


def without_times(outcome: object) -> object:
    """What is left when each store may go by its own clock."""
    match outcome:
        case LimitExceeded(standing=standing, retry_after_s=retry_after_s):
            plain = replace(outcome, standing=RateLimitStatus(), retry_after_s=None)
            return (plain, without_times(standing), retry_after_s is None)
        case RateLimitStatus(requests=Window(remaining=requests), tokens=Window(remaining=tokens)):
            return (requests, tokens)
    return outcome


@pytest.mark.parametrize("seed", range(5))
async def test_both_stores_answer_alike(redis_port: int, seed: int):
    shared_store = RedisAccounts(f"redis://127.0.0.1:{redis_port}", uuid.uuid4().hex)
    stores: list[LimitStore] = [shared_store, LocalStore(Accounts())]
    for store in stores:
        await store.set_limits({"k": KeyLimits(40, 500, 20, 5, 700, 600)})
    for call, arguments in random_steps(random.Random(seed)):
        shared, local = [await getattr(store, call)(*arguments) for store in stores]
        assert without_times(shared) == without_times(local), (call, arguments)
        assert await stores[0].stats() == await stores[1].stats()
    await shared_store.close()
