"""Both ends of the ledger's connections, in one process and without Ray."""

import asyncio
import contextlib
import json

import pytest
import uvloop

from api.errors import InsufficientQuotaError, RateLimitError, UnavailableError
from api.ports.rate_limits import Amounts
from deployments.ledger import server as ledger_server
from deployments.ledger.client import LedgerClient
from deployments.ledger.connection import Connection
from deployments.ledger.protocol import KeySet, to_ledger_decoder
from tests.helpers.ledger_cluster import be_quick, make_record, rig, until


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy])
def event_loop_policy(request):
    """Replicas run on uvloop, whose transports are not asyncio's."""
    return request.param()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    be_quick(monkeypatch)


pytestmark = pytest.mark.usefixtures("quick")
SLOT = Amounts(requests=1, slots=1)


async def test_of_fifty_requests_over_three_links_exactly_ten_are_let_through(tmp_path):
    async with rig(tmp_path, requests_per_minute=10) as it:
        links = [await it.link() for _ in range(3)]
        results = await asyncio.gather(
            *(links[number % 3].reserve("key", SLOT) for number in range(50)),
            return_exceptions=True,
        )

    refused = [result for result in results if isinstance(result, RateLimitError)]
    assert (len(results) - len(refused), len(refused)) == (10, 40)
    assert all(error.headers()["retry-after-ms"] for error in refused)


async def test_a_slot_is_free_again_when_it_is_settled(tmp_path):
    async with rig(tmp_path, concurrent_requests=1) as it:
        link = await it.link()
        held = await link.reserve("key", SLOT)
        with pytest.raises(RateLimitError):
            await link.reserve("key", SLOT)
        link.settle(held, Amounts(requests=1))
        link.settle(held, Amounts(requests=1))
        await link.reserve("key", SLOT)

        assert it.slots() == 1


async def test_who_leaves_while_asking_holds_nothing(tmp_path):
    async with rig(tmp_path, concurrent_requests=1) as it:
        link = await it.link()
        await link.reserve("key", Amounts())
        asking = asyncio.create_task(link.reserve("key", SLOT))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.sleep(0.1)

        assert it.slots() == 0
        assert link.stats()["asking"] == 0


async def test_who_is_closed_while_asking_holds_nothing(tmp_path):
    """A coroutine that is thrown away ends without being cancelled."""
    async with rig(tmp_path, concurrent_requests=1) as it:
        link = await it.link()
        await link.reserve("key", Amounts())
        asking = link.reserve("key", SLOT)
        asking.send(None)
        asking.close()
        await asyncio.sleep(0.1)

        assert it.slots() == 0
        assert link.stats()["asking"] == 0


async def test_what_a_dead_replica_held_is_free_soon(tmp_path):
    async with rig(tmp_path, concurrent_requests=1) as it:
        dying, other = await it.link(), await it.link()
        await dying.reserve("key", SLOT)
        with pytest.raises(RateLimitError):
            await other.reserve("key", SLOT)
        dying.shut_down()
        await until(lambda: it.slots() == 0)
        await other.reserve("key", SLOT)


async def test_limits_survive_a_ledger_that_is_killed(tmp_path):
    async with rig(tmp_path, requests_per_minute=3, concurrent_requests=2) as it:
        link = await it.link()
        held = await link.reserve("key", SLOT)
        await link.reserve("key", SLOT)
        await it.kill()
        await it.start()
        with pytest.raises(RateLimitError, match="concurrent"):
            await link.reserve("key", SLOT)
        link.settle(held, Amounts(requests=1))
        await link.reserve("key", SLOT)
        with pytest.raises(RateLimitError):
            await link.reserve("key", Amounts(requests=1))
        await asyncio.sleep(0.6)

        assert it.slots() == 2, "the link came back, so nothing was dropped"


async def test_a_request_waits_for_a_ledger_that_is_gone(tmp_path):
    async with rig(tmp_path, requests_per_minute=1) as it:
        link = await it.link()
        await link.reserve("key", Amounts())
        await it.kill()
        asking = asyncio.create_task(link.reserve("key", SLOT))
        await asyncio.sleep(0.1)
        await it.start()
        await asking
        with pytest.raises(RateLimitError):
            await link.reserve("key", SLOT)


async def test_without_a_ledger_requests_are_refused_for_now(tmp_path):
    async with rig(tmp_path, requests_per_minute=1) as it:
        link = await it.link()
        await it.kill()
        with pytest.raises(UnavailableError):
            await link.reserve("key", SLOT)


async def test_a_request_waits_for_a_ledger_that_has_yet_to_read_the_keys(tmp_path):
    async with rig(tmp_path, requests_per_minute=1) as it:
        link = await it.link()
        await link.reserve("key", Amounts())
        await it.kill()
        await it.start(knows_keys=False)
        asking = asyncio.create_task(link.reserve("key", SLOT))
        await asyncio.sleep(0.2)
        assert not asking.done()
        it.server.publish(KeySet([], b"mark"))
        await asking
        with pytest.raises(RateLimitError):
            await link.reserve("key", SLOT)


async def test_while_the_keys_cannot_be_read_nobody_is_granted_anything(tmp_path):
    async with rig(tmp_path) as it:
        await it.kill()
        await it.start(knows_keys=False)
        link = await it.link()
        it.server.publish(None)
        with pytest.raises(UnavailableError):
            async with asyncio.timeout(0.5):  # at once
                await link.reserve("key", SLOT)
        it.server.publish(KeySet([], b"mark"))
        await link.reserve("key", SLOT)


async def test_records_are_written_in_groups_and_once_each(tmp_path):
    async with rig(tmp_path) as it:
        link = await it.link()
        recorded: list[str] = []
        link.on_recorded = recorded.extend
        records = [make_record() for _ in range(100)]
        for record in records:
            link.finish(record)
        link.repeat(records[0])
        await until(lambda: len(recorded) >= 100)

        assert it.table.records.keys() == {record.id for record in records}
        assert len(it.table.groups) < 10
        assert link.stats()["unrecorded"] == 0


async def test_no_record_is_lost_when_the_ledger_is_killed(tmp_path):
    async with rig(tmp_path, tokens_per_day=1000) as it:
        link = await it.link()
        records = [make_record(prompt_tokens=1, completion_tokens=1) for _ in range(200)]
        for number, record in enumerate(records):
            link.finish(record)
            await asyncio.sleep(0.002)
            if number in (50, 100, 150):
                await it.kill()
                await it.start()
        await until(lambda: link.stats()["unrecorded"] == 0)
        await link.reserve("key", Amounts(tokens=600))
        with pytest.raises(InsufficientQuotaError):
            await link.reserve("key", Amounts(tokens=1))

        assert it.table.records.keys() == {record.id for record in records}


async def test_records_wait_for_a_database_that_is_away(tmp_path):
    async with rig(tmp_path, tokens_per_minute=10) as it:
        link = await it.link()
        held = await link.reserve("key", Amounts(tokens=10))
        it.table.is_broken = True
        link.finish(make_record(prompt_tokens=2, completion_tokens=2), held)
        await asyncio.sleep(0.2)
        assert not it.table.records
        await link.reserve("key", Amounts(tokens=6))
        it.table.is_broken = False
        await until(lambda: len(it.table.records) == 1)
        with pytest.raises(RateLimitError):
            await link.reserve("key", Amounts(tokens=1))


async def test_tokens_that_were_reserved_and_not_used_come_back(tmp_path):
    async with rig(tmp_path, tokens_per_minute=100) as it:
        link = await it.link()
        held = await link.reserve("key", Amounts(tokens=90))
        link.finish(make_record(prompt_tokens=5, completion_tokens=5), held)
        await until(lambda: link.stats()["unrecorded"] == 0)
        held = await link.reserve("key", Amounts(tokens=90))

        assert held.standing.tokens.remaining == 0
        assert link.stats()["held"] == 1


async def test_keys_reach_all_who_want_them_whenever_they_change(tmp_path):
    async with rig(tmp_path) as it:
        seen: list[KeySet] = []
        await it.link(on_keys=seen.append)
        await it.link()
        await until(lambda: len(seen) == 1)
        it.server.publish(KeySet([], b"other"))
        await until(lambda: len(seen) == 2)

        assert [each.pepper_fingerprint for each in seen] == [b"mark", b"other"]


async def test_audit_events_are_written(tmp_path):
    async with rig(tmp_path) as it:
        link = await it.link()
        await link.reserve("key", Amounts())
        link.audit("auth_failures", count=3)
        path = tmp_path / "audit.jsonl"
        await until(lambda: path.exists() and path.read_text())

        assert json.loads(path.read_text())["count"] == 3


async def test_without_a_ledger_in_the_configuration_nothing_piles_up():
    async def find() -> None:
        return None

    link = LedgerClient(find)
    link.finish(make_record())
    link.start()
    await until(lambda: link.has_ledger is False)

    assert link.stats()["unrecorded"] == 0
    link.shut_down()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\1\xc1", b"\0\0\0\1\x90"])
async def test_who_has_no_ticket_is_cut_off_and_harms_nobody(tmp_path, data: bytes):
    async with rig(tmp_path, requests_per_minute=1) as it:
        assert it.address
        reader, writer = await asyncio.open_connection(it.address.host, it.address.port)
        writer.write(data)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        link = await it.link()
        await link.reserve("key", SLOT)

        assert it.server.stats()["callers"] == 1


def test_a_frame_may_arrive_in_any_pieces():
    taken: list = []
    connection = Connection(to_ledger_decoder, lambda _, each: taken.extend(each), lambda _: None)
    frame = b"\0\0\0\x01\x90" * 3  # three frames of no messages
    for position in range(len(frame)):
        connection.data_received(frame[position : position + 1])

    assert taken == []
    assert not connection._buffer


async def test_a_hold_is_settled_though_quotas_cannot_be_counted(tmp_path, monkeypatch):
    async def fail(*_) -> None:
        raise UnavailableError("Redis is away.")

    async with rig(tmp_path, tokens_per_minute=100) as it:
        link = await it.link()
        held = await link.reserve("key", Amounts(tokens=90))
        monkeypatch.setattr(it.store, "spend", fail)
        link.finish(make_record(prompt_tokens=5, completion_tokens=5), held)
        await until(lambda: link.stats()["unrecorded"] == 0)

        assert it.accounts.stats()["open_tokens"] == 0


async def test_a_database_that_does_not_answer_is_as_one_that_is_away(tmp_path, monkeypatch):
    async def hang(_) -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr(ledger_server, "_WRITE_TIMEOUT_S", 0.1)
    async with rig(tmp_path, tokens_per_minute=10) as it:
        link = await it.link()
        held = await link.reserve("key", Amounts(tokens=10))
        with monkeypatch.context() as hanging:
            hanging.setattr(it.table, "add", hang)
            link.finish(make_record(prompt_tokens=2, completion_tokens=2), held)
            await asyncio.sleep(0.3)
            await link.reserve("key", Amounts(tokens=6))
            assert link.stats()["unrecorded"] == 1
        await until(lambda: link.stats()["unrecorded"] == 0)

        assert len(it.table.records) == 1
