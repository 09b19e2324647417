"""Usage records on their way from a client to the database."""

import pytest

from api.errors import RateLimitError, UnavailableError
from api.ports.rate_limits import Amounts
from tests.helpers.event_loops import event_loop_policy  # noqa: F401  # a fixture
from tests.helpers.ledger_cluster import ledger_cluster, make_record, until


async def test_records_are_written_in_groups_and_once_each(tmp_path):
    async with ledger_cluster(tmp_path) as ledger:
        client = ledger.connect()
        recorded: list[str] = []
        client.on_recorded = recorded.extend
        records = [make_record() for _ in range(100)]
        for record in records:
            client.finish(record)
        client.replay(records[0])
        await until(lambda: len(recorded) >= 100)

        assert ledger.table.records.keys() == {record.id for record in records}
        assert len(ledger.table.groups) < 10
        assert client.stats()["unrecorded"] == 0


async def test_database_that_is_away_is_logged_once(tmp_path, caplog):
    async with ledger_cluster(tmp_path) as ledger:
        client = ledger.connect()
        ledger.table.is_broken = True
        client.finish(make_record())
        await until(lambda: ledger.table.failures >= 3)
        ledger.table.is_broken = False
        await until(lambda: ledger.table.records)

    assert caplog.text.count("usage cannot be recorded") == 1


async def test_records_wait_for_a_database_that_is_away_but_reservations_do_not(tmp_path):
    async with ledger_cluster(tmp_path, tokens_per_minute=10) as ledger:
        client = ledger.connect()
        reservation = await client.reserve("key", Amounts(tokens=10))
        ledger.table.is_broken = True
        client.finish(make_record(prompt_tokens=2, completion_tokens=2), reservation)
        await until(lambda: ledger.table.failures >= 2)
        assert not ledger.table.records
        await client.reserve("key", Amounts(tokens=6))
        ledger.table.is_broken = False
        await until(lambda: len(ledger.table.records) == 1)
        with pytest.raises(RateLimitError):
            await client.reserve("key", Amounts(tokens=1))


async def test_records_wait_for_a_database_that_does_not_answer_but_reservations_do_not(tmp_path):
    async with ledger_cluster(tmp_path, tokens_per_minute=10) as ledger:
        client = ledger.connect()
        reservation = await client.reserve("key", Amounts(tokens=10))
        ledger.table.is_hanging = True
        client.finish(make_record(prompt_tokens=2, completion_tokens=2), reservation)
        await until(lambda: ledger.table.failures >= 2)
        await client.reserve("key", Amounts(tokens=6))
        assert client.stats()["unrecorded"] == 1
        ledger.table.is_hanging = False
        await until(lambda: client.stats()["unrecorded"] == 0)

        assert len(ledger.table.records) == 1


async def test_unused_tokens_are_refunded_with_the_record(tmp_path):
    async with ledger_cluster(tmp_path, tokens_per_minute=100) as ledger:
        client = ledger.connect()
        reservation = await client.reserve("key", Amounts(tokens=90))
        client.finish(make_record(prompt_tokens=5, completion_tokens=5), reservation)
        await until(lambda: client.stats()["unrecorded"] == 0)
        reservation = await client.reserve("key", Amounts(tokens=90))

        assert reservation.status.tokens.remaining == 0
        assert client.stats()["reservations"] == 1


async def test_reservation_is_settled_even_if_quota_usage_cannot_be_counted(tmp_path, monkeypatch):
    async def fail(*_) -> None:
        raise UnavailableError("Redis is away.")

    async with ledger_cluster(tmp_path, tokens_per_minute=100) as ledger:
        client = ledger.connect()
        reservation = await client.reserve("key", Amounts(tokens=90))
        monkeypatch.setattr(ledger.accounts, "add_quota_usage", fail)
        client.finish(make_record(prompt_tokens=5, completion_tokens=5), reservation)
        await until(lambda: client.stats()["unrecorded"] == 0)

        assert (await ledger.accounts.stats())["open_tokens"] == 0
