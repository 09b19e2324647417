"""`GET /v1/usage`: what has been used, by day, key, model and more."""

import re
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeGuard, get_args
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from api.errors import InsufficientPermissionsError, InvalidRequestError, UnknownParameterError
from api.http.response import send_json
from api.middleware.auth import get_key
from api.ports.administration import Administration, GroupBy, UsageQuery, UsageRow
from api.ports.tenancy import Key

_PARAMETERS = ("from", "to", "group_by", "key", "tenant", "model")
_GROUPS: tuple[GroupBy, ...] = get_args(GroupBy)
_DEFAULT_GROUPS = "day,key,model"
_DAY = re.compile(r"2[0-9]{3}-[0-9]{2}-[0-9]{2}")
_MAX_IN_MESSAGE = 64


class ReportUsage:
    """The endpoint: any key sees its own usage, and one of scope `admin` all."""

    def __init__(self, administration: Administration) -> None:
        """Report what `administration` has."""
        self._administration = administration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        query = read_query(scope["query_string"], datetime.now(UTC).date())
        query = narrow(query, get_key(scope))
        rows = await self._administration.report_usage(query)
        await send_json(send, to_response(rows, query.group_by))


def read_query(query_string: bytes, today: date) -> UsageQuery:
    """What a query string asks for; `from` and `to` are both counted in.

    Raises:
        UnknownParameterError, InvalidRequestError: by parameter.
    """
    members = _read_members(query_string)
    first = _to_day(members, "from", today.replace(day=1))
    last = _to_day(members, "to", today)
    if first > last:
        raise InvalidRequestError(
            f"Invalid value for 'from': {first} is after the last day, which is {last}.",
            param="from",
        )
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
        shown = name[:_MAX_IN_MESSAGE]
        if name not in _PARAMETERS:
            raise UnknownParameterError(f"Unknown parameter: '{shown}'.", param=shown)
        if name in members or not value or "\0" in value:
            raise InvalidRequestError(
                f"Invalid value for '{name}': it must be given once, and be a text.", param=name
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
        pass  # such as the 31st of a month that has 30 days
    raise InvalidRequestError(f"Invalid value for '{name}': must be a day, YYYY-MM-DD.", param=name)


def _to_seconds(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _to_groups(value: str) -> tuple[GroupBy, ...]:
    groups = value.split(",")
    if len(set(groups)) < len(groups) or not _are_groups(groups):
        raise InvalidRequestError(
            f"Invalid value for 'group_by': must be some of {', '.join(_GROUPS)}, each once, with "
            "commas between.",
            param="group_by",
        )
    return tuple(groups)


def _are_groups(groups: list[str]) -> TypeGuard[list[GroupBy]]:
    return set(groups) <= set(_GROUPS)


def narrow(query: UsageQuery, key: Key) -> UsageQuery:
    """Keep to what a key may see.

    Raises:
        InsufficientPermissionsError: it asks for another's by name.
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
    """A list of rows without the fields that were not grouped by."""
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
