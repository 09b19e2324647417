"""`GET /v1/usage`: sums of the recorded usage, by day, key, model and more."""

import re
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeGuard, get_args
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from api.errors import (
    MAX_QUOTED_CHARS,
    InsufficientPermissionsError,
    InvalidRequestError,
    UnknownParameterError,
    quote,
)
from api.http.response import send_json
from api.middleware.auth import get_key
from api.ports.administration import Administration, GroupBy, UsageQuery, UsageRow
from api.ports.tenancy import Key

_PARAMETERS = ("from", "to", "group_by", "key", "tenant", "model")
_GROUPS: tuple[GroupBy, ...] = get_args(GroupBy)
_DEFAULT_GROUPS = "day,key,model"
_DAY = re.compile(r"2[0-9]{3}-[0-9]{2}-[0-9]{2}")


class ReportUsage:
    """Reports usage: to a key its own, to a key with the scope `admin` all."""

    def __init__(self, administration: Administration) -> None:
        """Report the usage in `administration`."""
        self._administration = administration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        query = read_query(scope["query_string"], datetime.now(UTC).date())
        query = narrow(query, get_key(scope))
        rows = await self._administration.report_usage(query)
        await send_json(send, to_response(rows, query.group_by))


def read_query(query_string: bytes, today: date) -> UsageQuery:
    """Parse a query string; the days `from` and `to` are both included.

    Args:
        query_string: as it is in the URL.
        today: the default of `to`; `from` defaults to the first day of its month.

    Raises:
        UnknownParameterError: there is no such parameter.
        InvalidRequestError: a value is invalid.
    """
    members = _read_members(query_string)
    first = _to_day(members, "from", today.replace(day=1))
    last = _to_day(members, "to", today)
    if first > last:
        raise InvalidRequestError.value("from", f"{first} is after the last day, which is {last}")
    return UsageQuery(
        from_s=_to_seconds(first),
        to_s=_to_seconds(last) + timedelta(days=1).total_seconds(),
        group_by=_to_groups(members.get("group_by", _DEFAULT_GROUPS)),
        key_id=members.get("key"),
        tenant=members.get("tenant"),
        model=members.get("model"),
    )


def _read_members(query_string: bytes) -> dict[str, str]:
    members: dict[str, str] = {}
    for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
        if name not in _PARAMETERS:
            raise UnknownParameterError(
                f"Unknown parameter: '{quote(name)}'.", param=name[:MAX_QUOTED_CHARS]
            )
        if name in members or not value or "\0" in value:
            raise InvalidRequestError.value(
                name, "it must be a non-empty text, and be given only once"
            )
        members[name] = value
    return members


def _to_day(members: dict[str, str], name: str, default: date) -> date:
    if name not in members:
        return default
    try:
        if _DAY.fullmatch(members[name]):
            return date.fromisoformat(members[name])
    except ValueError:
        pass  # no such day, for example the 31st of April
    raise InvalidRequestError.value(name, "must be a day, YYYY-MM-DD")


def _to_seconds(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _to_groups(value: str) -> tuple[GroupBy, ...]:
    groups = value.split(",")
    if len(set(groups)) < len(groups) or not _are_groups(groups):
        raise InvalidRequestError.value(
            "group_by",
            f"must be a list of {', '.join(_GROUPS)}, separated by commas, without repetitions",
        )
    return tuple(groups)


def _are_groups(groups: list[str]) -> TypeGuard[list[GroupBy]]:
    return set(groups) <= set(_GROUPS)


def narrow(query: UsageQuery, key: Key) -> UsageQuery:
    """Restrict a query to what a key may see.

    Raises:
        InsufficientPermissionsError: the query names another key or tenant.
    """
    if "admin" in key.scopes:
        return query
    if query.key_id not in (None, key.id) or query.tenant not in (None, key.tenant):
        raise InsufficientPermissionsError(
            "This API key lacks the scope 'admin': it sees its own usage only.",
            param="tenant" if query.key_id in (None, key.id) else "key",
        )
    return replace(query, key_id=key.id)


def to_response(rows: Iterable[UsageRow], group_by: Iterable[GroupBy]) -> dict[str, Any]:
    """Render rows as a list, without the fields that are not grouped by."""
    grouped = set(group_by)
    hidden = {"key_id", "key_name"} if "key" not in grouped else set()
    hidden.update(name for name in _GROUPS if name not in grouped)
    return {
        "object": "list",
        "data": [
            {name: value for name, value in asdict(row).items() if name not in hidden}
            for row in rows
        ],
    }
