from datetime import UTC, date, datetime
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.admin.usage import read_query, to_response
from api.errors import ApiError, InvalidRequestError
from api.ports.administration import GroupBy, UsageQuery, UsageRow
from api.ports.tenancy import MODEL_SCOPES, SCOPES, Key
from tests.helpers.asgi import Response, request
from tests.helpers.fakes import SECRET, FakeAdministration, build_app, keys_of

OWN = Key("k0000001", "ann", "acme")
ADMIN = Key("adm00000", "root", "ops", scopes=frozenset({"admin"}))
TODAY = date(2026, 2, 14)
DAY_S = 86_400
SUMS: dict[str, Any] = {
    "requests": 1,
    "errors": 2,
    "prompt_tokens": 3,
    "cached_tokens": 4,
    "completion_tokens": 5,
    "reasoning_tokens": 6,
    "images": 7,
    "image_steps": 8,
    "image_pixel_steps": 9,
}
GROUPED = {
    "day": "2026-02-14",
    "key_id": "k0000001",
    "key_name": None,
    "tenant": "acme",
    "user": "bob",
    "model": "llm",
    "kind": "llm",
}
ROW = UsageRow(**GROUPED, **SUMS)


def day_s(day: str) -> float:
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


async def ask(key: Key, query: str = "") -> tuple[Response, FakeAdministration]:
    administration = FakeAdministration([ROW])
    app = build_app(keys=keys_of(key), administration=administration)
    headers = {"authorization": f"Bearer {SECRET}"}
    return await request(app, "GET", f"/v1/usage?{query}", headers=headers), administration


async def test_response_is_a_list_of_sums() -> None:
    response, _ = await ask(ADMIN, "group_by=day,key")

    assert response.json() == {
        "object": "list",
        "data": [{"day": "2026-02-14", "key_id": "k0000001", "key_name": None, **SUMS}],
    }


@pytest.mark.parametrize("group", get_args(GroupBy))
def test_row_has_the_fields_grouped_by_and_the_sums(group: GroupBy) -> None:
    names = {"key_id", "key_name"} if group == "key" else {group}

    (row,) = to_response([ROW], [group])["data"]

    assert row == {**{name: GROUPED[name] for name in names}, **SUMS}


def test_empty_query_is_the_current_month_by_day_key_and_model() -> None:
    assert read_query(b"", TODAY) == UsageQuery(
        day_s("2026-02-01"), day_s("2026-02-15"), ("day", "key", "model")
    )


async def test_default_month_is_in_utc() -> None:
    now_s = datetime.now(UTC).timestamp()

    _, administration = await ask(ADMIN)

    (query,) = administration.queries
    assert query.from_s <= now_s < query.to_s
    assert query.to_s - query.from_s <= 31 * DAY_S


def test_every_parameter_reaches_the_administration() -> None:
    query = b"from=2026-01-05&to=2026-01-05&group_by=kind,user&key=k1&tenant=a%26b&model=org%2Fm"

    assert read_query(query, TODAY) == UsageQuery(
        day_s("2026-01-05"), day_s("2026-01-05") + DAY_S, ("kind", "user"), "k1", "a&b", "org/m"
    )


@pytest.mark.parametrize(
    ("query", "param"),
    [
        (b"from=yesterday", "from"),
        (b"from=2026-02-30", "from"),
        (b"from=20260201", "from"),
        (b"from=2026-W05-1", "from"),
        (b"from=1999-12-31", "from"),
        (b"from=%D9%A22026-01-01", "from"),
        (b"from=2026-02-15", "from"),
        (b"to=2026-01-31", "from"),
        (b"to=", "to"),
        (b"to=2026-02-14T00:00", "to"),
        (b"to=9999-12-31", "to"),
        (b"group_by=", "group_by"),
        (b"group_by=hour", "group_by"),
        (b"group_by=day,day", "group_by"),
        (b"group_by=day,", "group_by"),
        (b"key=", "key"),
        (b"key=a&key=b", "key"),
        (b"model=%00", "model"),
    ],
)
def test_invalid_value_is_refused_by_parameter(query: bytes, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_query(query, TODAY)

    assert (caught.value.code, caught.value.param) == ("invalid_value", param)


async def test_unknown_parameter_returns_400() -> None:
    response, _ = await ask(ADMIN, "since=2026-01-01")

    assert response.error() == (400, "unknown_parameter", "since")


async def test_long_parameter_name_is_shortened_in_the_error() -> None:
    response, _ = await ask(ADMIN, "x" * 10_000)

    assert response.error() == (400, "unknown_parameter", "x" * 64)
    assert len(response.body) < 400


@given(query=st.binary(max_size=60) | st.from_regex(r"(from|to|key|model)=.{0,12}").map(str.encode))
def test_arbitrary_query_raises_no_unexpected_error(query: bytes) -> None:
    try:
        found: Any = read_query(query, TODAY)
    except ApiError as error:
        found = error

    assert isinstance(found, UsageQuery) or found.status == 400


@pytest.mark.parametrize("scope", sorted(MODEL_SCOPES))
@pytest.mark.parametrize("query", ["", "key=k0000001", "tenant=acme", "key=k0000001&tenant=acme"])
async def test_key_without_admin_scope_sees_its_own_usage(scope: Any, query: str) -> None:
    key = Key("k0000001", "ann", "acme", scopes=frozenset({scope}))

    response, administration = await ask(key, query)

    assert response.status == 200
    assert [each.key_id for each in administration.queries] == ["k0000001"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("key=k0000002", "key"),
        ("tenant=other", "tenant"),
        ("key=k0000002&tenant=acme", "key"),
        ("key=k0000001&tenant=other", "tenant"),
    ],
)
async def test_usage_of_another_key_or_tenant_returns_403(query: str, param: str) -> None:
    response, administration = await ask(OWN, query)

    assert response.error() == (403, "insufficient_permissions", param)
    assert administration.queries == []


@pytest.mark.parametrize("scopes", [frozenset({"admin"}), frozenset(SCOPES)])
@pytest.mark.parametrize(
    ("query", "expected"),
    [("", (None, None)), ("key=k0000002&tenant=other", ("k0000002", "other"))],
)
async def test_key_with_admin_scope_sees_all_usage(scopes: Any, query: str, expected: Any) -> None:
    key = Key("adm00000", "root", "ops", scopes=scopes)

    _, administration = await ask(key, query)

    assert [(each.key_id, each.tenant) for each in administration.queries] == [expected]
