"""The usage in the database: records stored in groups, summed up for reports and quotas."""

import re
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Row, Select, case, func, select
from sqlalchemy.dialects import postgresql, sqlite

from api.ports.administration import GroupBy, UsageQuery, UsageRow
from deployments.ledger.records import DAY_S, UsageRecord
from deployments.ledger.store.database import Database
from deployments.ledger.store.tables import keys, usage
from deployments.ledger.store.used import SUMS, used_between

_EPOCH = date(1970, 1, 1)
_MAX_CHARS = 256
_MEMBERS = tuple(field.name for field in fields(UsageRecord))
_UNSTORABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and lone surrogates: PostgreSQL rejects some, terminals obey others."""


class UsageStore:
    """Usage records; all methods raise StoreError if the database cannot be used."""

    def __init__(self, database: Database) -> None:
        """Store records in `database`, which has been migrated."""
        self._database = database

    async def add(self, records: Sequence[UsageRecord]) -> None:
        """Store all of the records or none; those stored already (by `id`) are left alone.

        But a stored failure gives way: another replica has answered the request after all.
        """
        if not records:
            return
        async with self._database.writing() as connection:
            is_postgresql = connection.dialect.name == "postgresql"
            insert = postgresql.insert(usage) if is_postgresql else sqlite.insert(usage)
            rows = [_to_row(record) for record in records]
            upsert = insert.on_conflict_do_update(
                index_elements=["id"],
                set_={name: insert.excluded[name] for name in rows[0]},
                where=usage.c.error_code.is_not(None) & insert.excluded.error_code.is_(None),
            )
            await connection.execute(upsert, rows)

    async def known(self, ids: Sequence[str]) -> set[str]:
        """Return the ids of records that are stored already."""
        async with self._database.reading() as connection:
            found = await connection.execute(select(usage.c.id).where(usage.c.id.in_(ids)))
            return set(found.scalars())

    async def report_usage(self, query: UsageQuery) -> list[UsageRow]:
        """Sum up usage, in the order of the fields grouped by; see `used_between`."""
        async with self._database.reading() as connection:
            rows = [_to_usage_row(row) for row in await connection.execute(_to_select(query))]
        # Not sorted by the database: each kind of database orders text differently.
        return sorted(rows, key=lambda row: _order(row, query.group_by))

    async def quota_usage(self, now_s: float) -> dict[str, tuple[int, int]]:
        """Sum up the tokens that count against quotas: key id → (this UTC day, this month)."""
        today = datetime.fromtimestamp(now_s, UTC).date()
        first = today.replace(day=1)
        following = (first + timedelta(days=31)).replace(day=1)
        columns = ("day", "key_id", "kind", "prompt_tokens", "completion_tokens")
        used = used_between(_to_unix(first), _to_unix(following), columns)
        tokens = used.c.prompt_tokens + used.c.completion_tokens
        of_today = case((used.c.day == (today - _EPOCH).days, tokens), else_=0)
        query = (
            select(used.c.key_id, func.sum(of_today), func.sum(tokens))
            .where(used.c.kind != "diffusion")
            .group_by(used.c.key_id)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return {key_id: (int(day), int(month)) for key_id, day, month in rows}


def clean(text: str) -> str:
    """Make text that a client chose safe to store and to print."""
    return _UNSTORABLE.sub("", text)[:_MAX_CHARS]


def _to_row(record: UsageRecord) -> dict[str, Any]:
    row: dict[str, Any] = {"day": int(record.time_s // DAY_S)}
    for name in _MEMBERS:  # `asdict` copies each value, which takes longer than to write it
        value = getattr(record, name)
        row[name] = clean(value) if isinstance(value, str) else value
    return row


def _to_select(query: UsageQuery) -> Select[Any]:
    wanted = {"key_id": query.key_id, "tenant": query.tenant, "model": query.model}
    equal = {name: clean(value) for name, value in wanted.items() if value is not None}
    columns = _to_columns(query.group_by)
    used = used_between(query.from_s, query.to_s, [*columns, *SUMS], equal)
    groups = [used.c[name] for name in columns]
    sums = [func.coalesce(func.sum(used.c[name]), 0).label(name) for name in SUMS]
    if "key" not in query.group_by:
        return select(*groups, *sums).group_by(*groups)
    groups.append(keys.c.name.label("key_name"))
    joined = used.outerjoin(keys, used.c.key_id == keys.c.id)
    return select(*groups, *sums).select_from(joined).group_by(*groups)


def _to_columns(group_by: Sequence[GroupBy]) -> list[str]:
    return ["key_id" if name == "key" else name for name in group_by]


def _to_usage_row(row: Row[Any]) -> UsageRow:
    members = dict(row._mapping)
    if "day" in members:
        members["day"] = (_EPOCH + timedelta(days=members["day"])).isoformat()
    for name in SUMS:
        members[name] = int(members[name])  # PostgreSQL's sums of integers are decimals
    return UsageRow(**members)


def _order(row: UsageRow, group_by: Sequence[GroupBy]) -> tuple[str, ...]:
    return tuple(getattr(row, name) or "" for name in _to_columns(group_by))


def _to_unix(day: date) -> int:
    return (day - _EPOCH).days * DAY_S
