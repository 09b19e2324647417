"""Turns old usage records into sums by day."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, literal_column, select
from sqlalchemy.dialects import postgresql, sqlite

from deployments.ledger.records import DAY_S
from deployments.ledger.store.database import Database
from deployments.ledger.store.tables import usage, usage_days
from deployments.ledger.store.used import SUMMED, SUMS

MAX_RECORDS = 1000
"""In one transaction: SQLite's other writers wait for 40 ms, and the event loop for 10 ms."""

_KEY = [column.name for column in usage_days.primary_key]


async def roll_up(database: Database, before_day: int, max_records: int = MAX_RECORDS) -> int:
    """Move records from `usage` into `usage_days`, the oldest first, in one transaction.

    Args:
        database: has been migrated.
        before_day: days from 1970-01-01 to the first day that keeps its records, UTC.
        max_records: how many to move at most.

    Returns:
        How many records were moved; less than `max_records` if none is left.

    Raises:
        StoreError: the database cannot be used; nothing was moved.
    """
    oldest = (
        select(usage.c.id)
        .where(usage.c.time_s < before_day * DAY_S)
        .order_by(usage.c.time_s)
        .limit(max_records)
        # PostgreSQL: what is counted is what is deleted. Records that another ledger moves, or
        # that a late answer replaces, are left for the next turn; waiting could deadlock.
        .with_for_update(skip_locked=True)
    )
    async with database.writing() as connection:
        ids = (await connection.execute(oldest)).scalars().all()
        if ids:
            is_postgresql = connection.dialect.name == "postgresql"
            await connection.execute(_to_upsert(ids, is_postgresql=is_postgresql))
            await connection.execute(delete(usage).where(usage.c.id.in_(ids)))
    return len(ids)


def _to_upsert(ids: Sequence[str], *, is_postgresql: bool) -> Any:
    """Add the sums of some records to what their days have already."""
    # A literal: PostgreSQL takes two parameters for two values, and then refuses to group.
    user = func.coalesce(usage.c.user, literal_column("''"))
    groups = [user if name == "user" else usage.c[name] for name in _KEY]
    counts = [func.count(), func.count(usage.c.error_code)]
    sums = [func.sum(usage.c[name]) for name in SUMMED]
    # Ordered, so that two ledgers lock the days in the same order.
    days = (
        select(*groups, *counts, *sums)
        .where(usage.c.id.in_(ids))
        .group_by(*groups)
        .order_by(*groups)
    )
    insert = postgresql.insert(usage_days) if is_postgresql else sqlite.insert(usage_days)
    insert = insert.from_select([*_KEY, *SUMS], days)
    return insert.on_conflict_do_update(
        index_elements=_KEY,
        set_={name: usage_days.c[name] + insert.excluded[name] for name in SUMS},
    )
