"""Usage as rows of one form, whether it is still single records or rolled up by day."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Subquery, case, func, literal, select, union_all
from sqlalchemy.sql.elements import ColumnElement

from deployments.ledger.records import DAY_S
from deployments.ledger.store.tables import usage, usage_days

SUMMED = (
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "images",
    "image_steps",
    "image_pixel_steps",
)
"""Columns that records and days have both."""

SUMS = ("requests", "errors", *SUMMED)
"""The sums of a day."""

_RECORD: Mapping[str, ColumnElement[Any]] = {
    **dict(usage.c),
    "user": func.nullif(usage.c.user, "").label("user"),
    "requests": literal(1).label("requests"),
    "errors": case((usage.c.error_code.is_not(None), 1), else_=0).label("errors"),
}
_DAY: Mapping[str, ColumnElement[Any]] = {
    **dict(usage_days.c),
    "user": func.nullif(usage_days.c.user, "").label("user"),
}


def used_between(
    from_s: float, to_s: float, columns: Sequence[str], equal: Mapping[str, str] | None = None
) -> Subquery:
    """Select usage from both tables.

    A rolled-up day is at its beginning, so ranges that adjoin never count anything twice. One
    statement reads both tables, so a record is counted once also while it is rolled up.

    Args:
        from_s: Unix time, included.
        to_s: Unix time, excluded.
        columns: names of `usage_days`; each one costs time.
        equal: column → the only value to select.
    """
    first_day, end_day = math.ceil(from_s / DAY_S), math.ceil(to_s / DAY_S)
    records = select(*(_RECORD[name] for name in columns)).where(
        usage.c.time_s >= from_s, usage.c.time_s < to_s
    )
    days = select(*(_DAY[name] for name in columns)).where(
        usage_days.c.day >= first_day, usage_days.c.day < end_day
    )
    for name, value in (equal or {}).items():
        records = records.where(usage.c[name] == value)
        days = days.where(usage_days.c[name] == value)
    return union_all(records, days).subquery("used")
