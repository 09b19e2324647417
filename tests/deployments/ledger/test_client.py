"""The client's end of the ledger's connections, with a ledger in this process."""

import asyncio
import json
from itertools import pairwise

import pytest

from api.errors import InsufficientQuotaError, RateLimitError, UnavailableError
from api.ports.rate_limits import Amounts
from deployments.ledger.client import LedgerClient
from tests.helpers.event_loops import event_loop_policy  # noqa: F401  # a fixture
from tests.helpers.ledger_cluster import GRACE_S, ledger_cluster, make_record, roundtrip, until

REQUEST = Amounts(requests=1, concurrent=1)


async def test_of_fifty_requests_over_three_clients_exactly_ten_are_granted(tmp_path):
    async with ledger_cluster(tmp_path, requests_per_minute=10) as ledger:
        clients = [ledger.connect() for _ in range(3)]
        results = await asyncio.gather(
            *(clients[number % 3].reserve("key", REQUEST) for number in range(50)),
            return_exceptions=True,
        )

    refused = [result for result in results if isinstance(result, RateLimitError)]
    assert (len(results) - len(refused), len(refused)) == (10, 40)
    assert all(error.headers()["retry-after-ms"] for error in refused)


async def test_settled_reservation_frees_its_concurrency_once(tmp_path):
    async with ledger_cluster(tmp_path, concurrent_requests=1) as ledger:
        client = ledger.connect()
        reservation = await client.reserve("key", REQUEST)
        with pytest.raises(RateLimitError):
            await client.reserve("key", REQUEST)
        client.settle(reservation, Amounts(requests=1))
        client.settle(reservation, Amounts(requests=1))
        await client.reserve("key", REQUEST)

        assert await ledger.concurrent() == 1


async def test_request_cancelled_while_it_reserves_holds_nothing(tmp_path):
    async with ledger_cluster(tmp_path, concurrent_requests=1) as ledger:
        client = ledger.connect()
        await roundtrip(client)
        reserving = asyncio.create_task(client.reserve("key", REQUEST))
        await asyncio.sleep(0)  # it has sent its message, and the answer is not here yet
        assert client.stats()["pending"] == 1
        reserving.cancel()
        await asyncio.wait([reserving])
        await roundtrip(client)

        assert await ledger.concurrent() == 0
        assert client.stats()["pending"] == 0


async def test_request_closed_while_it_reserves_holds_nothing(tmp_path):
    """A coroutine that is dropped ends with GeneratorExit, without being cancelled."""
    async with ledger_cluster(tmp_path, concurrent_requests=1) as ledger:
        client = ledger.connect()
        await roundtrip(client)
        reserving = client.reserve("key", REQUEST)
        reserving.send(None)
        reserving.close()
        await roundtrip(client)

        assert await ledger.concurrent() == 0
        assert client.stats()["pending"] == 0


async def test_limits_survive_a_killed_ledger(tmp_path):
    async with ledger_cluster(tmp_path, requests_per_minute=3, concurrent_requests=2) as ledger:
        client = ledger.connect()
        first = await client.reserve("key", REQUEST)
        await client.reserve("key", REQUEST)
        await ledger.restart()
        with pytest.raises(RateLimitError, match="concurrent"):
            await client.reserve("key", REQUEST)
        client.settle(first, Amounts(requests=1))
        await client.reserve("key", REQUEST)
        with pytest.raises(RateLimitError, match="requests per minute"):
            await client.reserve("key", Amounts(requests=1))
        await asyncio.sleep(3 * GRACE_S)

        assert await ledger.concurrent() == 2, "the client has reconnected, so nothing expires"


async def test_request_waits_for_a_ledger_that_is_away(tmp_path):
    async with ledger_cluster(tmp_path, requests_per_minute=1) as ledger:
        client = ledger.connect()
        await roundtrip(client)
        await ledger.kill()
        reserving = asyncio.create_task(client.reserve("key", REQUEST))
        await until(lambda: client.stats()["pending"] == 1)
        await ledger.start()
        await reserving
        with pytest.raises(RateLimitError):
            await client.reserve("key", REQUEST)


async def test_request_without_an_answer_in_time_raises_unavailable(tmp_path):
    async with ledger_cluster(tmp_path, requests_per_minute=1) as ledger:
        await ledger.kill()
        client = LedgerClient(ledger.find, answer_timeout_s=0.05)
        with pytest.raises(UnavailableError):
            await client.reserve("key", REQUEST)

        assert client.stats()["pending"] == 0


async def test_no_record_is_lost_when_the_ledger_is_killed(tmp_path):
    async with ledger_cluster(tmp_path, tokens_per_day=1000) as ledger:
        client = ledger.connect()
        records = [make_record(prompt_tokens=1, completion_tokens=1) for _ in range(200)]
        for number, record in enumerate(records):
            client.finish(record)
            await asyncio.sleep(0.002)
            if number in (50, 100, 150):
                await ledger.restart()
        await until(lambda: client.stats()["unrecorded"] == 0)
        await client.reserve("key", Amounts(tokens=600))
        with pytest.raises(InsufficientQuotaError):
            await client.reserve("key", Amounts(tokens=1))

        assert ledger.table.records.keys() == {record.id for record in records}


async def test_client_drops_records_if_no_ledger_is_configured():
    async def find() -> None:
        return None

    client = LedgerClient(find)
    client.finish(make_record())
    client.start()
    await until(lambda: client.has_ledger is False)

    assert client.stats()["unrecorded"] == 0
    client.shut_down()


async def test_audit_events_reach_the_audit_log(tmp_path):
    async with ledger_cluster(tmp_path) as ledger:
        client = ledger.connect()
        await roundtrip(client)
        client.audit("auth_failures", count=3)
        await roundtrip(client)
        log = await asyncio.to_thread((tmp_path / "audit.jsonl").read_text)

    assert json.loads(log)["count"] == 3


async def test_lost_connection_is_reported(tmp_path):
    async with ledger_cluster(tmp_path) as ledger:
        client = ledger.connect()
        lost = asyncio.Event()
        client.on_disconnect = lost.set
        await roundtrip(client)
        await ledger.kill()

        await asyncio.wait_for(lost.wait(), 5)


async def test_lost_ledger_is_looked_for_less_and_less_often():
    """Hundreds of replicas ask the one process that must start it again."""
    asked_at_s: list[float] = []

    async def find() -> None:
        asked_at_s.append(asyncio.get_running_loop().time())
        raise OSError("there is no ledger")

    client = LedgerClient(find, retry_s=0.01)
    client.start()
    await until(lambda: len(asked_at_s) == 7)
    client.shut_down()

    pauses_s = [later - earlier for earlier, later in pairwise(asked_at_s)]
    assert all(pause_s >= 0.005 * 2**number for number, pause_s in enumerate(pauses_s))
