"""Reports and quotas over days that are rolled up, and days that are not."""

import itertools
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from api.ports.administration import GroupBy, UsageQuery, UsageRow
from deployments.ledger.store.database import Database
from deployments.ledger.store.keys import KeyStore
from deployments.ledger.store.roll_up import roll_up
from deployments.ledger.store.usage import UsageStore
from tests.helpers.ledger_cluster import make_record

DAY_S = 86_400
MIDNIGHT_S = datetime(2026, 1, 30, tzinfo=UTC).timestamp()
TODAY = int(MIDNIGHT_S // DAY_S)
NOON_S = MIDNIGHT_S + DAY_S / 2
GROUPS: list[tuple[GroupBy, ...]] = [(), *((name,) for name in get_args(GroupBy)), ("day", "key")]


@pytest.fixture
async def store(database: Database) -> UsageStore:
    """Usage of three days, two keys (one of them deleted), and two users or none."""
    keys = KeyStore(database, b"pepper")
    key_id = (await keys.create_key({"name": "app"})).key.id
    usual: dict[str, Any] = {"key_id": key_id, "prompt_tokens": 1, "completion_tokens": 10}
    store = UsageStore(database)
    await store.add(
        [
            make_record(time_s=NOON_S, **usual),
            make_record(time_s=NOON_S - DAY_S, user="ann", **usual),
            make_record(time_s=NOON_S - DAY_S, user="bob", error_code="cancelled", **usual),
            make_record(time_s=NOON_S - 2 * DAY_S, **{**usual, "key_id": "deleted"}),
            make_record(time_s=NOON_S - 2 * DAY_S, kind="diffusion", images=2, **usual),
            make_record(time_s=NOON_S - 40 * DAY_S, model="b", tenant="u", **usual),
        ]
    )
    return store


async def count(store: UsageStore, from_s: float, to_s: float, **fields: Any) -> int:
    (row,) = await store.report_usage(UsageQuery(from_s, to_s, group_by=(), **fields))
    return row.requests


@pytest.mark.parametrize("group_by", GROUPS, ids=str)
async def test_report_is_the_same_when_days_are_rolled_up(
    database: Database, store: UsageStore, group_by: tuple[GroupBy, ...]
) -> None:
    query = UsageQuery(0, 2 * NOON_S, group_by=group_by)
    before = await store.report_usage(query)
    await roll_up(database, TODAY - 1)
    partly = await store.report_usage(query)
    await roll_up(database, TODAY + 1)

    assert before
    assert partly == before
    assert await store.report_usage(query) == before


async def test_no_user_is_none_again(database: Database, store: UsageStore) -> None:
    await roll_up(database, TODAY + 1)
    rows = await store.report_usage(UsageQuery(0, 2 * NOON_S, group_by=("user",)))

    assert [(row.user, row.requests) for row in rows] == [(None, 4), ("ann", 1), ("bob", 1)]


async def test_report_has_the_sums_of_rolled_up_days(database: Database, store: UsageStore) -> None:
    await roll_up(database, TODAY)
    query = UsageQuery(MIDNIGHT_S - DAY_S, MIDNIGHT_S, group_by=("day", "kind"))

    assert await store.report_usage(query) == [
        UsageRow(
            day="2026-01-29",
            kind="llm",
            requests=2,
            errors=1,
            prompt_tokens=2,
            cached_tokens=0,
            completion_tokens=20,
            reasoning_tokens=0,
            images=0,
            image_steps=0,
            image_pixel_steps=0,
        )
    ]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [({"model": "b"}, 1), ({"tenant": "u"}, 1), ({"key_id": "deleted"}, 1), ({"model": "c"}, 0)],
)
async def test_filters_select_rolled_up_days(
    database: Database, store: UsageStore, wanted: dict[str, str], found: int
) -> None:
    await roll_up(database, TODAY + 1)

    assert await count(store, 0, 2 * NOON_S, **wanted) == found


@pytest.mark.parametrize(
    ("from_s", "to_s", "found"),
    [
        (MIDNIGHT_S, MIDNIGHT_S + DAY_S, 1),
        (MIDNIGHT_S, MIDNIGHT_S + 0.5, 1),
        (MIDNIGHT_S - 0.5, MIDNIGHT_S, 0),
        (MIDNIGHT_S + 0.5, MIDNIGHT_S + DAY_S, 0),
        (NOON_S, NOON_S + 1, 0),
    ],
)
async def test_rolled_up_day_is_at_its_beginning(
    database: Database, store: UsageStore, from_s: float, to_s: float, found: int
) -> None:
    await roll_up(database, TODAY + 1)

    assert await count(store, from_s, to_s) == found


async def test_ranges_that_adjoin_count_everything_once(
    database: Database, store: UsageStore
) -> None:
    await roll_up(database, TODAY)
    bounds_s = [0, NOON_S - DAY_S - 1, NOON_S - DAY_S, NOON_S - DAY_S + 1, NOON_S, 2 * NOON_S]
    counts = [await count(store, *each) for each in itertools.pairwise(bounds_s)]

    assert sum(counts) == 6


async def test_quotas_count_rolled_up_days(database: Database, store: UsageStore) -> None:
    before = await store.quota_usage(NOON_S)
    await roll_up(database, TODAY)
    partly = await store.quota_usage(NOON_S)
    await roll_up(database, TODAY + 1)

    assert sorted(before.values()) == [(0, 11), (11, 33)]
    assert partly == before
    assert await store.quota_usage(NOON_S) == before
