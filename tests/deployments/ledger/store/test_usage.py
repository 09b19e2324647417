import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from api.ports.administration import UsageQuery, UsageRow
from deployments.ledger.records import UsageRecord
from deployments.ledger.store.database import Database
from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.keys import KeyStore
from deployments.ledger.store.tables import usage
from deployments.ledger.store.usage import UsageStore, clean

NOON_S = datetime(2026, 2, 28, 12, tzinfo=UTC).timestamp()
HOUR_S, DAY_S = 3600, 86_400
EVER = UsageQuery(0, 2 * NOON_S)


@pytest.fixture
def store(database: Database) -> UsageStore:
    return UsageStore(database)


def record(**fields: Any) -> UsageRecord:
    usual: dict[str, Any] = {
        "time_s": NOON_S,
        "request_id": "req_1",
        "key_id": "Abcd1234",
        "tenant": "acme",
        "endpoint": "chat/completions",
        "model": "llm",
        "kind": "llm",
        "total_ms": 12.5,
    }
    return UsageRecord(**{**usual, **fields})


FULL = record(
    user="ann",
    adapter="fine",
    prompt_tokens=1,
    cached_tokens=2,
    completion_tokens=3,
    reasoning_tokens=4,
    images=5,
    image_steps=6,
    image_pixel_steps=10 * 1000 * 2048**2,
    queue_ms=0.5,
    ttft_ms=1.5,
    finish_reason="stop",
    is_streamed=True,
)
NO_SUMS = {name: 0 for name, kind in UsageRow.__annotations__.items() if kind is int}


def row(**fields: Any) -> UsageRow:
    return UsageRow(**{**NO_SUMS, **fields})


async def report(store: UsageStore, *group_by: Any, **fields: Any) -> list[UsageRow]:
    return await store.report_usage(replace(EVER, group_by=group_by, **fields))


async def stored(database: Database) -> list[dict[str, Any]]:
    async with database.reading() as connection:
        rows = await connection.execute(select(usage).order_by(usage.c.id))
        return [dict(row._mapping) for row in rows]


async def test_every_field_is_stored(database: Database, store: UsageStore) -> None:
    await store.add([FULL])

    assert await stored(database) == [{**asdict(FULL), "day": 20_512}]


async def test_repeated_record_is_stored_once(database: Database, store: UsageStore) -> None:
    second = record()
    await store.add([FULL, FULL])
    await store.add([replace(FULL, prompt_tokens=99), second])
    await store.add([FULL])

    assert {each["id"]: each["prompt_tokens"] for each in await stored(database)} == {
        FULL.id: 1,
        second.id: 0,
    }


async def test_answer_replaces_the_failure_of_the_replica_before(
    database: Database, store: UsageStore
) -> None:
    """A request whose first replica was lost has one record: of the replica that answered it."""
    failed = replace(FULL, finish_reason=None, error_code="cancelled", completion_tokens=1)
    await store.add([failed])
    await store.add([FULL])
    await store.add([failed, replace(failed, completion_tokens=2)])

    assert await stored(database) == [{**asdict(FULL), "day": 20_512}]


async def test_failure_does_not_replace_a_failure(database: Database, store: UsageStore) -> None:
    failed = replace(FULL, finish_reason=None, error_code="cancelled")
    await store.add([failed])
    await store.add([replace(failed, completion_tokens=99)])

    assert [row["completion_tokens"] for row in await stored(database)] == [3]


async def test_adding_no_records_does_nothing(store: UsageStore) -> None:
    await store.add([])

    assert await report(store, "key") == []


async def test_known_returns_the_ids_that_are_stored(store: UsageStore) -> None:
    await store.add([FULL])

    assert await store.known([FULL.id, "other"]) == {FULL.id}
    assert await store.known([]) == set()


async def test_a_thousand_records_take_less_than_a_second(
    database: Database, store: UsageStore
) -> None:
    records = [replace(FULL, id=str(number)) for number in range(1000)]
    before = time.process_time()
    await store.add(records)

    assert time.process_time() - before < 1
    assert len(await stored(database)) == 1000


async def test_failed_group_stores_no_record(database: Database, store: UsageStore) -> None:
    broken: Any = replace(FULL, id="broken", total_ms=None)
    with pytest.raises(StoreError):
        await store.add([record(), broken])

    assert await stored(database) == []


@given(st.text(max_size=400))
def test_any_text_can_be_stored(text: str) -> None:
    cleaned = clean(text)

    assert cleaned.encode().decode() == cleaned
    assert len(cleaned) <= 256
    assert not any(ord(character) < 32 for character in cleaned)


async def test_texts_are_stored_without_control_characters_and_capped(
    database: Database, store: UsageStore
) -> None:
    await store.add([record(user="a\0b\n\x1b[2J\ud800é👩‍🚀", request_id="r" * 1000)])
    (kept,) = await stored(database)

    assert kept["user"] == "ab[2Jé👩‍🚀"
    assert kept["request_id"] == "r" * 256


async def test_report_has_all_sums_of_a_group(store: UsageStore) -> None:
    failed = replace(FULL, id="other", finish_reason=None, error_code="engine_error")
    await store.add([FULL, failed])
    rows = await report(store)

    assert rows == [
        row(
            requests=2,
            errors=1,
            prompt_tokens=2,
            cached_tokens=4,
            completion_tokens=6,
            reasoning_tokens=8,
            images=10,
            image_steps=12,
            image_pixel_steps=2 * FULL.image_pixel_steps,
        )
    ]
    assert all(type(getattr(rows[0], name)) is int for name in NO_SUMS)


async def test_report_without_records_and_groups_is_one_row_of_zeros(store: UsageStore) -> None:
    assert await report(store) == [row()]


async def test_report_by_day_key_and_model(database: Database, store: UsageStore) -> None:
    key = (await KeyStore(database, b"pepper").create_key({"name": "app"})).key
    await store.add(
        [
            record(key_id=key.id, model="b"),
            record(key_id=key.id, model="a"),
            record(key_id="", model="a"),
            record(key_id=key.id, model="a", time_s=NOON_S - DAY_S),
            record(key_id=key.id, model="a", time_s=NOON_S + HOUR_S),
        ]
    )
    known = {"key_id": key.id, "key_name": "app"}

    assert await store.report_usage(EVER) == [
        row(day="2026-02-27", **known, model="a", requests=1),
        row(day="2026-02-28", key_id="", model="a", requests=1),
        row(day="2026-02-28", **known, model="a", requests=2),
        row(day="2026-02-28", **known, model="b", requests=1),
    ]


async def test_report_is_sorted_by_its_group_fields(store: UsageStore) -> None:
    await store.add([record(user="b"), record(user=None), record(user="B", kind="embedding")])

    assert await report(store, "user", "tenant", "kind") == [
        row(user=None, tenant="acme", kind="llm", requests=1),
        row(user="B", tenant="acme", kind="embedding", requests=1),
        row(user="b", tenant="acme", kind="llm", requests=1),
    ]


async def test_usage_of_a_deleted_key_stays(database: Database, store: UsageStore) -> None:
    keys = KeyStore(database, b"pepper")
    key_id = (await keys.create_key({"name": "app"})).key.id
    await store.add([record(key_id=key_id)])
    await keys.delete_key(key_id)

    assert await report(store, "key") == [row(key_id=key_id, requests=1)]


async def test_end_of_the_period_is_exclusive(store: UsageStore) -> None:
    await store.add([record(time_s=NOON_S), record(time_s=NOON_S + HOUR_S)])
    rows = await report(store, from_s=NOON_S, to_s=NOON_S + HOUR_S)

    assert [each.requests for each in rows] == [1]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"key_id": "Abcd1234"}, 1),
        ({"tenant": "other"}, 1),
        ({"model": "llm"}, 2),
        ({"model": "llm", "tenant": "other"}, 1),
        ({"model": "' OR 1=1 --"}, 0),
        ({"model": "\0"}, 0),
        ({"key_id": "\ud800"}, 0),
    ],
)
async def test_filters_select_records(store: UsageStore, query: dict[str, str], found: int) -> None:
    await store.add([record(), record(key_id="other", tenant="other")])

    assert [each.requests for each in await report(store, **query)] == [found]


async def test_quota_usage_sums_the_tokens_that_count(store: UsageStore) -> None:
    await store.add(
        [
            record(prompt_tokens=1, completion_tokens=2, reasoning_tokens=2, cached_tokens=1),
            record(prompt_tokens=4, time_s=NOON_S - DAY_S),
            record(prompt_tokens=8, time_s=NOON_S - 28 * DAY_S),
            record(prompt_tokens=16, time_s=NOON_S + DAY_S),
            record(prompt_tokens=32, kind="diffusion", images=1),
            record(prompt_tokens=64, kind="embedding", key_id="other", time_s=NOON_S - DAY_S),
        ]
    )

    assert await store.quota_usage(NOON_S) == {"Abcd1234": (3, 7), "other": (0, 64)}


async def test_days_and_months_begin_at_midnight_utc(store: UsageStore) -> None:
    midnight_s = NOON_S + 12 * HOUR_S
    await store.add(
        [
            record(prompt_tokens=1, time_s=midnight_s - 0.001),
            record(prompt_tokens=2, time_s=midnight_s),
        ]
    )

    assert await store.quota_usage(midnight_s - 1) == {"Abcd1234": (1, 1)}
    assert await store.quota_usage(midnight_s) == {"Abcd1234": (2, 2)}


async def test_quota_usage_of_december_ends_before_january(store: UsageStore) -> None:
    new_year_s = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    await store.add([record(prompt_tokens=1, time_s=new_year_s)])

    assert await store.quota_usage(new_year_s - 1) == {}


async def test_records_with_one_request_id_are_all_stored(
    database: Database, store: UsageStore
) -> None:
    await store.add([record(request_id="same"), record(request_id="same")])
    async with database.reading() as connection:
        count = (await connection.execute(select(func.count()).select_from(usage))).scalar_one()

    assert count == 2
