import asyncio
from collections.abc import Callable

import pytest

from api.ports.tenancy import RequestContext
from deployments.engines.llm.schema_turns import SchemaTurns

CHEAP, COSTLY = 10.0, 3000.0


class Requests:
    """Requests with schemas; each is compiled when a test says so."""

    def __init__(self, turns: SchemaTurns) -> None:
        self._turns = turns
        self.sent: list[str] = []
        self.begun: dict[str, asyncio.Event] = {}

    def start(
        self, name: str, cost_ms: float = COSTLY, schema: str | None = None
    ) -> "asyncio.Task[None]":
        """Send a request of the tenant that its first letter names."""
        self.begun[name] = asyncio.Event()
        return asyncio.create_task(self._send(name, cost_ms, schema or name))

    async def _send(self, name: str, cost_ms: float, schema: str) -> None:
        context = RequestContext(tenant=name[0])
        async with self._turns.turn(schema, cost_ms, context, self.begun[name]):
            self.sent.append(name)


async def settle() -> None:
    """Let all tasks run until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def requests() -> Requests:
    return Requests(SchemaTurns())


async def test_costly_schemas_are_compiled_one_by_one_and_tenants_alternate(
    requests: Requests,
) -> None:
    tasks = [requests.start(name) for name in ("a0", "a1", "a2", "b0")]
    await settle()
    assert requests.sent == ["a0"]
    for name in ("a0", "a1", "b0", "a2"):
        requests.begun[name].set()
        await settle()

    assert requests.sent == ["a0", "a1", "b0", "a2"]
    await asyncio.gather(*tasks)


async def test_cheap_schema_does_not_wait_for_a_costly_one(requests: Requests) -> None:
    costly, cheap = requests.start("a0"), requests.start("a1", CHEAP)
    await cheap

    assert requests.sent == ["a0", "a1"]
    costly.cancel()
    await asyncio.wait({costly})


async def test_known_schema_is_not_compiled_again(requests: Requests) -> None:
    first = requests.start("a0", schema="same")
    await settle()
    requests.begun["a0"].set()
    await first
    busy, again = requests.start("a1"), requests.start("a2", schema="same")
    await again

    assert requests.sent == ["a0", "a1", "a2"]
    busy.cancel()
    await asyncio.wait({busy})


async def test_turn_of_a_cancelled_request_lasts_as_long_as_its_compilation(
    requests: Requests,
) -> None:
    cancelled = requests.start("a0", cost_ms=300.0)
    await settle()
    cancelled.cancel()
    await asyncio.wait({cancelled})
    following = requests.start("b0")
    await settle()
    assert requests.sent == ["a0"]
    requests.begun["b0"].set()
    await following

    assert requests.sent == ["a0", "b0"]


async def test_turn_of_a_request_that_vllm_refuses_ends_at_once() -> None:
    turns = SchemaTurns()

    async def send(fail: Callable[[], None]) -> None:
        has_begun = asyncio.Event()
        has_begun.set()
        async with turns.turn("schema", COSTLY, RequestContext(), has_begun):
            fail()

    def refuse() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await send(refuse)

    await send(lambda: None)


async def test_choices_of_a_request_do_not_hold_the_event_loop_together(
    requests: Requests,
) -> None:
    tasks = [requests.start(f"a{number}", CHEAP) for number in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert len(requests.sent) < 2
    await asyncio.gather(*tasks)
