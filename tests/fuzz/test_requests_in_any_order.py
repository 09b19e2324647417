"""Keys, limits, streams, cancels and deaths in any order, against a model of what must hold."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from api.access.key_format import digest
from api.access.key_ring import KeyDigest, KeyRing, Keys
from api.access.rate_limit_headers import to_error, to_headers
from api.errors import EngineError, UnavailableError
from api.ports.rate_limits import Amounts, RateLimitStatus
from api.ports.stream import Consume, TextDelta
from api.ports.tenancy import Key, KeyLimits
from api.ports.text import Completion, Generation
from deployments.ledger.limits.accounts import Accounts
from tests.helpers.asgi import Exchange, check_error
from tests.helpers.fakes import LLM, LLM_USAGE, PEPPER, build_app
from tests.helpers.fuzzing import Fuzzer

CONCURRENT, A_MINUTE = 2, 6
LIMITS = {
    "concurrent": KeyLimits(concurrent_requests=CONCURRENT),
    "a-minute": KeyLimits(requests_per_minute=A_MINUTE),
    "free": KeyLimits(),
}
DEATHS: tuple[Callable[[], Exception], ...] = (
    lambda: EngineError("The engine died."),
    lambda: UnavailableError("The replica died."),
)
STEP, FINISH = "step", "finish"

WRONG_KEY = ((401, "invalid_api_key"), (429, "too_many_failed_keys"))


class HeldRequest:
    """One request in the engine, which does what it is told: a step, an end or an exception."""

    def __init__(self) -> None:
        self.orders: asyncio.Queue[str | Exception] = asyncio.Queue()
        self.is_over = False

    async def run(self, consume: Consume[TextDelta]) -> Completion:
        try:
            while (order := await self.orders.get()) != FINISH:
                if isinstance(order, Exception):
                    raise order
                if (rest := consume((TextDelta(0, "word "),))) is not None:
                    await rest
            consume((TextDelta(0, "", "stop"),))
            return Completion((TextDelta(0, "words", "stop"),), LLM_USAGE)
        finally:
            self.is_over = True

    async def forward(self, consume: Consume[TextDelta]) -> Completion:
        return await self.run(consume)

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.is_over = True


class HeldLlm:
    """An `LlmBackend` of such requests."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[HeldRequest] = asyncio.Queue()

    async def complete(self, generation: Generation) -> Completion:
        return await self._take_in().run(lambda _: None)

    def stream(self, generation: Generation) -> HeldRequest:
        return self._take_in()

    def _take_in(self) -> HeldRequest:
        request = HeldRequest()
        self.arrived.put_nowait(request)
        return request


@dataclass
class AccountsAdmission:
    """A request that the accounts have admitted."""

    accounts: Accounts
    reservation_id: str
    status: RateLimitStatus
    settling: list[Awaitable[None]]

    @property
    def headers(self) -> dict[str, str]:
        return to_headers(self.status)

    def release(self, images: int = 0) -> None:
        used = Amounts(requests=1, images=images)
        self.settling.append(self.accounts.settle(self.reservation_id, used))


@dataclass
class AccountsLimiter:
    """A `Limiter` over the ledger's accounts, without the ledger's process."""

    accounts: Accounts
    settling: list[Awaitable[None]] = field(default_factory=list)
    last_id: int = 0

    async def admit(self, key: Key, images: int = 0, pixel_steps: int = 0) -> AccountsAdmission:
        self.last_id += 1
        amounts = Amounts(requests=1, images=images, concurrent=1)
        outcome = await self.accounts.reserve("s", str(self.last_id), key.id, amounts)
        if not isinstance(outcome, RateLimitStatus):
            raise to_error(outcome)
        return AccountsAdmission(self.accounts, str(self.last_id), outcome, self.settling)


@dataclass
class OpenRequest:
    """A request that waits for its engine, and its client."""

    key: str
    is_stream: bool
    exchange: Exchange
    held: HeldRequest
    steps: int = 0


class Machine(RuleBasedStateMachine):
    """The application with three keys and one engine."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.runner = asyncio.Runner()
        self.llm = HeldLlm()
        self.accounts = Accounts(None, lambda: self.now_s)
        self.limiter = AccountsLimiter(self.accounts)
        self.keys = {name: Key(name, name, "t", limits=each) for name, each in LIMITS.items()}
        self.secrets = {name: [f"sk-{name}-0"] for name in LIMITS}
        """Of each key, the newest last; only that one authenticates."""
        self.ring = Keys(KeyRing([], PEPPER))
        self.app = build_app(self.llm, keys=self.ring, limiter=self.limiter)  # type: ignore[arg-type]
        self.open: list[OpenRequest] = []
        self.admitted_at_s: list[float] = []
        self.runner.run(self.accounts.set_limits(LIMITS))
        self.publish()

    def teardown(self) -> None:
        while self.open:
            self.end(0, FINISH)
        self.runner.run(self._settle())
        self.runner.close()

    def publish(self) -> None:
        self.ring.swap(
            KeyRing(
                [
                    KeyDigest(key, digest(PEPPER, self.secrets[name][-1]))
                    for name, key in self.keys.items()
                ],
                PEPPER,
            )
        )

    @rule(pause_s=st.sampled_from([0.1, 7.0, 61.0]))
    def wait(self, pause_s: float) -> None:
        self.now_s += pause_s

    @rule(name=st.sampled_from(sorted(LIMITS)), is_disabled=st.booleans())
    def switch_key(self, name: str, is_disabled: bool) -> None:
        self.keys[name] = replace(self.keys[name], is_disabled=is_disabled)
        self.publish()

    @rule(name=st.sampled_from(sorted(LIMITS)))
    def rotate_key(self, name: str) -> None:
        self.secrets[name].append(f"sk-{name}-{len(self.secrets[name])}")
        self.publish()

    @rule(name=st.sampled_from(sorted(LIMITS)), is_stream=st.booleans(), is_newest=st.booleans())
    def begin(self, name: str, is_stream: bool, is_newest: bool) -> None:
        secret = self.secrets[name][-1 if is_newest else 0]
        is_valid = secret == self.secrets[name][-1] and not self.keys[name].is_disabled
        body = {"model": LLM, "prompt": "Hi", "stream": is_stream}
        headers = {"content-type": "application/json", "authorization": f"Bearer {secret}"}
        exchange = Exchange(
            self.app, "POST", "/v1/completions", headers=headers, chunks=[json.dumps(body).encode()]
        )
        held = self.runner.run(self._begin(exchange))

        if held is not None:
            assert is_valid
            assert name != "concurrent" or self.count("concurrent") < CONCURRENT
            self.note_admission(name)
            self.open.append(OpenRequest(name, is_stream, exchange, held))
        elif not is_valid:
            assert exchange.response.error()[:2] in WRONG_KEY
        else:
            assert exchange.response.error()[:2] == (429, "rate_limit_exceeded")
            assert exchange.response.headers["retry-after"]
            assert name != "concurrent" or self.count("concurrent") == CONCURRENT
            assert name != "free"

    async def _begin(self, exchange: Exchange) -> HeldRequest | None:
        await exchange.__aenter__()
        arrival = asyncio.ensure_future(self.llm.arrived.get())
        await asyncio.wait({arrival, exchange._running}, return_when=asyncio.FIRST_COMPLETED)
        if arrival.done():
            return arrival.result()
        arrival.cancel()
        await exchange.end()
        return None

    def note_admission(self, name: str) -> None:
        if name == "a-minute":
            self.admitted_at_s.append(self.now_s)
            assert sum(at_s > self.now_s - 60 for at_s in self.admitted_at_s) <= A_MINUTE

    def count(self, name: str) -> int:
        return sum(each.key == name for each in self.open)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.open))
        request.held.orders.put_nowait(STEP)
        request.steps += 1
        if request.is_stream:
            self.runner.run(request.exchange.sent(1 + request.steps))
            assert not request.exchange.response.is_ended

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        request = self.end(data.draw(st.integers(0, len(self.open) - 1)), FINISH)
        response = request.exchange.response

        assert (response.status, response.is_ended) == (200, True)
        assert not request.is_stream or response.events()[-1] == "[DONE]"

    @precondition(lambda self: self.open)
    @rule(data=st.data(), death=st.sampled_from(DEATHS))
    def die(self, data: st.DataObject, death: Callable[[], Exception]) -> None:
        """A stream that has begun ends with an error event, and never as if it were complete."""
        request = self.end(data.draw(st.integers(0, len(self.open) - 1)), death())
        response = request.exchange.response

        assert response.is_ended
        if response.status == 200:
            last: Any = response.events()[-1]
            assert request.is_stream
            assert last != "[DONE]"
            check_error(last["error"])
        else:
            assert response.error()[0] in (500, 503)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def break_down(self, data: st.DataObject) -> None:
        """What nobody expects is a plain 500, or aborts the connection of a stream."""
        index = data.draw(st.integers(0, len(self.open) - 1))
        request = self.open[index]
        has_begun = bool(request.exchange.response.messages)
        aborted = pytest.raises(RuntimeError) if has_begun else nullcontext()
        with aborted:
            self.end(index, RuntimeError("/srv/secret"))

        assert request.exchange.response.is_ended != has_begun
        assert has_begun or request.exchange.response.error() == (500, "internal_error", None)
        assert b"secret" not in request.exchange.response.body

    def end(self, index: int, order: str | Exception) -> OpenRequest:
        request = self.open.pop(index)
        request.held.orders.put_nowait(order)
        try:
            self.runner.run(request.exchange.end())
        finally:
            assert request.held.is_over
        return request

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        request = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        request.exchange.disconnect()
        self.runner.run(request.exchange.end())

        assert request.held.is_over
        assert not request.exchange.response.is_ended

    @invariant()
    def open_requests_hold_their_places_and_no_others_do(self) -> None:
        limited = len(self.open) - self.count("free")
        stats = self.runner.run(self._settle())

        assert (stats["concurrent"], stats["reservations"]) == (limited, limited)
        assert [each for each in self.open if each.held.is_over] == []

    async def _settle(self) -> dict[str, int]:
        while self.limiter.settling:
            await self.limiter.settling.pop()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        running = {each.exchange._running for each in self.open}
        assert len(tasks - running) <= 3 * len(self.open)  # those of the requests themselves
        return await self.accounts.stats()


def test_requests_in_any_order_hold_their_places_until_they_end(fuzzer: Fuzzer) -> None:
    fuzzer.run_machine(Machine, count=60, steps=40)
