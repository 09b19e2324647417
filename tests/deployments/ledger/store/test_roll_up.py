"""Old records that become sums by day; what reports say of them is in `test_used.py`."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select, text, update

from api.ports.administration import UsageQuery
from deployments.ledger.records import UsageRecord
from deployments.ledger.store.database import Database
from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.roll_up import roll_up
from deployments.ledger.store.tables import usage, usage_days
from deployments.ledger.store.usage import UsageStore
from tests.helpers.ledger_cluster import make_record

DAY_S = 86_400
DAY = 20_000
"""The first day that keeps its records."""

FULL = make_record(
    time_s=DAY * DAY_S - 1.0,
    user="ann",
    prompt_tokens=1,
    cached_tokens=2,
    completion_tokens=3,
    reasoning_tokens=4,
    images=5,
    image_steps=6,
    image_pixel_steps=10 * 1000 * 2048**2,
)


@pytest.fixture
def store(database: Database) -> UsageStore:
    return UsageStore(database)


def copies(count: int, **fields: Any) -> list[UsageRecord]:
    """Records like FULL with ids of their own."""
    return [replace(FULL, id=str(number), **fields) for number in range(count)]


async def count_records(database: Database) -> int:
    async with database.reading() as connection:
        query = select(func.count()).select_from(usage)
        return int((await connection.execute(query)).scalar_one())


async def read_days(database: Database) -> list[dict[str, Any]]:
    async with database.reading() as connection:
        rows = await connection.execute(select(usage_days).order_by(usage_days.c.day))
        return [dict(row._mapping) for row in rows]


async def test_records_of_a_day_become_one_row_of_sums(
    database: Database, store: UsageStore
) -> None:
    failed = replace(FULL, id="other", error_code="engine_error")
    await store.add([FULL, failed])
    moved = await roll_up(database, DAY)

    assert moved == 2
    assert await count_records(database) == 0
    assert await read_days(database) == [
        {
            "day": DAY - 1,
            "key_id": "key",
            "tenant": "t",
            "user": "ann",
            "model": "m",
            "kind": "llm",
            "requests": 2,
            "errors": 1,
            "prompt_tokens": 2,
            "cached_tokens": 4,
            "completion_tokens": 6,
            "reasoning_tokens": 8,
            "images": 10,
            "image_steps": 12,
            "image_pixel_steps": 2 * FULL.image_pixel_steps,
        }
    ]


async def test_records_of_the_days_that_are_kept_stay(
    database: Database, store: UsageStore
) -> None:
    await store.add([FULL, make_record(time_s=DAY * DAY_S), make_record(time_s=DAY * DAY_S + 1)])

    assert await roll_up(database, DAY) == 1
    assert await roll_up(database, DAY) == 0
    assert await count_records(database) == 2


async def test_late_record_is_added_to_its_day(database: Database, store: UsageStore) -> None:
    await store.add([FULL])
    await roll_up(database, DAY)
    await store.add([replace(FULL, id="late")])
    await roll_up(database, DAY)
    (day,) = await read_days(database)

    assert (day["requests"], day["completion_tokens"]) == (2, 6)


async def test_days_keys_tenants_users_models_and_kinds_have_rows_of_their_own(
    database: Database, store: UsageStore
) -> None:
    others: list[dict[str, Any]] = [
        {"time_s": FULL.time_s - DAY_S},
        {"key_id": "other"},
        {"tenant": "other"},
        {"user": "other"},
        {"model": "other"},
        {"kind": "embedding"},
    ]
    await store.add([FULL, *(replace(FULL, id=str(other), **other) for other in others)])
    await roll_up(database, DAY)

    assert [day["requests"] for day in await read_days(database)] == [1] * 7


async def test_no_user_and_an_empty_user_share_a_row(database: Database, store: UsageStore) -> None:
    await store.add([replace(FULL, id="a", user=None), replace(FULL, id="b", user="\0")])
    await roll_up(database, DAY)

    assert [(day["user"], day["requests"]) for day in await read_days(database)] == [("", 2)]


async def test_a_transaction_moves_no_more_than_its_maximum_and_the_oldest_first(
    database: Database, store: UsageStore
) -> None:
    old = replace(FULL, id="old", time_s=FULL.time_s - DAY_S)
    await store.add([*copies(2), old])
    counts = [await roll_up(database, DAY, max_records=1)]
    days = [day["day"] for day in await read_days(database)]
    counts += [await roll_up(database, DAY, max_records=1) for _ in range(3)]

    assert days == [DAY - 2]
    assert counts == [1, 1, 1, 0]


async def test_failed_transaction_moves_nothing(database: Database, store: UsageStore) -> None:
    await store.add([FULL])
    async with database.writing() as connection:
        await connection.execute(text("ALTER TABLE usage_days RENAME TO hidden"))
    with pytest.raises(StoreError):
        await roll_up(database, DAY)

    assert await count_records(database) == 1


async def test_two_ledgers_and_a_recorder_at_once_lose_and_repeat_nothing(
    database: Database, database_url: str, store: UsageStore
) -> None:
    records = [replace(each, user=str(i % 7)) for i, each in enumerate(copies(200))]
    await store.add(records)
    other = Database(database_url)
    query = UsageQuery(0, DAY * DAY_S, group_by=())

    async def roll_up_all(database: Database) -> None:
        for _ in range(15):
            await roll_up(database, DAY, max_records=10)

    async def add_late() -> None:
        for number in range(10):
            await store.add([replace(FULL, id=f"late {number}")])

    async def watch() -> set[int]:
        rows = [(await store.report_usage(query))[0] for _ in range(20)]
        return {row.requests - 200 for row in rows}

    *_, seen = await asyncio.gather(roll_up_all(database), roll_up_all(other), add_late(), watch())
    (row,) = await store.report_usage(query)

    assert seen <= set(range(11))
    assert (row.requests, row.prompt_tokens) == (210, 210)
    await other.close()


async def test_record_that_another_transaction_changes_is_left_for_the_next_turn(
    postgresql_url: str,
) -> None:
    """SQLite has one writer at a time."""
    database = Database(postgresql_url)
    await database.migrate()
    await UsageStore(database).add(copies(2))
    async with database.writing() as connection:
        await connection.execute(update(usage).where(usage.c.id == "0").values(prompt_tokens=9))

        assert await roll_up(database, DAY) == 1
    assert await roll_up(database, DAY) == 1
    assert [day["prompt_tokens"] for day in await read_days(database)] == [10]
    await database.close()
