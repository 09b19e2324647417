"""The ledger's replica, without Ray."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from api.errors import KeyNotFoundError, UnavailableError
from api.ports.administration import UsageQuery
from deployments.config.ledger import LedgerArgs
from deployments.ledger import replica as ledger_replica
from deployments.ledger.client import LedgerClient
from deployments.ledger.limits.redis_accounts import RedisAccounts
from deployments.ledger.protocol import KeySet
from deployments.ledger.replica import LedgerReplica
from deployments.ledger.store.database import Database
from deployments.ledger.store.tables import usage
from deployments.ledger.store.usage import UsageStore
from tests.helpers.ledger_cluster import make_record, until
from tests.helpers.redis_server import running_redis
from tests.helpers.replicas import running_replica


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder, and neither Ray nor its logs."""

    async def fetch_details() -> dict[str, Any]:
        return {"applications": {}}

    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path))
    monkeypatch.delenv("TRIPTYCH_DATABASE_URL", raising=False)
    monkeypatch.delenv("TRIPTYCH_REDIS_URL", raising=False)
    monkeypatch.setattr(ledger_replica, "fetch_details", fetch_details)
    monkeypatch.setattr(ledger_replica, "configure_logs", lambda: None)
    return tmp_path


@contextlib.asynccontextmanager
async def open_ledger() -> AsyncIterator[tuple[LedgerReplica, LedgerClient, list[KeySet]]]:
    """A replica, a client of it, and the key sets that the client has received, at least one."""
    async with running_replica(LedgerReplica, LedgerArgs(poll_interval_s=0.02)) as replica:
        seen: list[KeySet] = []
        client = LedgerClient(replica.address, seen.append)
        client.start()
        await until(lambda: seen)
        try:
            yield replica, client, seen
        finally:
            client.shut_down()


async def test_created_key_is_published_to_clients():
    async with open_ledger() as (replica, _, seen):
        new = await replica.administer("create_key", {"name": "app"})
        await until(lambda: seen[-1].keys)

        assert seen[-1].keys[0].key == new.key
        assert await replica.administer("list_keys") == [new.key]


async def test_deleted_key_is_published_to_clients():
    async with open_ledger() as (replica, _, seen):
        await replica.administer("create_key", {"name": "app"})
        await until(lambda: seen[-1].keys)
        await replica.administer("delete_key", "app")
        await until(lambda: not seen[-1].keys)


async def test_errors_of_the_store_reach_the_caller():
    async with open_ledger() as (replica, _, _):
        with pytest.raises(KeyNotFoundError):
            await replica.administer("get_key", "app")


async def test_finished_request_is_in_the_usage_report():
    record = make_record(prompt_tokens=3)
    async with open_ledger() as (replica, client, _):
        client.finish(record)
        await until(lambda: client.stats()["unrecorded"] == 0)
        query = UsageQuery(record.time_s, record.time_s + 1, group_by=())
        (row,) = await replica.administer("report_usage", query)

    assert (row.requests, row.prompt_tokens) == (1, 3)


async def test_old_usage_is_rolled_up_and_still_reported(home: Path):
    database = Database(f"sqlite:///{home / 'triptych.db'}")
    await database.migrate()
    await UsageStore(database).add([make_record(prompt_tokens=3, time_s=0)])
    async with open_ledger() as (replica, _, _):
        await until_rolled_up(database)
        (row,) = await replica.administer("report_usage", UsageQuery(0, 1, group_by=("day",)))

    assert (row.day, row.requests, row.prompt_tokens) == ("1970-01-01", 1, 3)
    await database.close()


async def until_rolled_up(database: Database) -> None:
    async with asyncio.timeout(5):
        while True:
            async with database.reading() as connection:
                if not (await connection.execute(select(usage.c.id))).all():
                    return
            await asyncio.sleep(0.01)


async def test_unusable_database_raises_unavailable(home: Path):
    args = LedgerArgs(database=f"sqlite:///{home / 'pepper' / 'x.db'}")
    async with running_replica(LedgerReplica, args) as replica:
        with pytest.raises(UnavailableError, match="Keys and usage"):
            await replica.administer("list_keys")


async def test_counters_are_zero_at_rest():
    async with open_ledger() as (replica, _, _):
        stats = await replica.stats()

    assert stats.pop("pid")
    assert stats.pop("clients") == 1
    assert set(stats.values()) == {0}


async def test_limits_are_in_the_redis_that_the_environment_names(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    with running_redis() as port:
        monkeypatch.setenv("TRIPTYCH_REDIS_URL", f"redis://127.0.0.1:{port}")
        async with running_replica(LedgerReplica, LedgerArgs()) as replica:
            store = replica._limits

    assert isinstance(store, RedisAccounts)
    assert not (home / "limits.db").exists()


async def test_retention_changes_without_a_restart():
    async with open_ledger() as (replica, _, _):
        await replica.reconfigure({"usage_retention_days": 7}, None)
        changed = replica._retention.days
        await replica.reconfigure({"usage_retention_days": 0}, None)
        refused = replica._retention.days
        await replica.reconfigure(None, None)

        assert (changed, refused, replica._retention.days) == (7, 7, 90)
