from typing import Any

import pytest

from api.ports.tenancy import SCOPES, Key
from tests.helpers.asgi import Response, request
from tests.helpers.fakes import SECRET, FakeAdministration, build_app, keys_of

ADMIN = Key("adm00000", "root", "ops", scopes=frozenset({"admin"}))
BODY = {"name": "ann", "models": ["llm*"], "limits": {"requests_per_minute": 9}}


class AdminClient:
    """The administration of keys, as a client with the scope `admin` uses it."""

    def __init__(self) -> None:
        self.administration = FakeAdministration()
        self.app = build_app(keys=keys_of(ADMIN), administration=self.administration)

    async def ask(self, method: str, path: str, body: Any = None) -> Response:
        headers = {"authorization": f"Bearer {SECRET}"}
        return await request(self.app, method, path, json_body=body, headers=headers)

    async def create(self, **members: Any) -> Any:
        return (await self.ask("POST", "/v1/keys", {**BODY, **members})).json()


async def test_new_key_is_shown_with_its_secret() -> None:
    response = await AdminClient().ask("POST", "/v1/keys", BODY)

    value = response.json()
    assert response.status == 200
    assert (value["object"], value["id"], value["name"]) == ("key", "key00000", "ann")
    assert value["models"] == ["llm*"]
    assert value["limits"]["requests_per_minute"] == 9
    assert value["key"] == "secret 1"


async def test_secret_is_not_shown_again() -> None:
    admin = AdminClient()
    key = await admin.create()

    listed = await admin.ask("GET", "/v1/keys")
    shown = await admin.ask("GET", f"/v1/keys/{key['id']}")

    del key["key"]
    assert listed.json() == {"object": "list", "data": [key]}
    assert shown.json() == key


async def test_all_fields_reach_the_administration() -> None:
    admin = AdminClient()

    await admin.create(
        tenant="acme",
        scopes=list(SCOPES),
        priority="high",
        may_log_prompts=True,
        expires_at=4_070_908_800,
    )

    (key,) = admin.administration.keys.values()
    assert (key.tenant, key.scopes, key.priority) == ("acme", frozenset(SCOPES), "high")
    assert (key.models, key.may_log_prompts, key.expires_at_s) == (("llm*",), True, 4_070_908_800)


async def test_key_is_found_by_its_name() -> None:
    admin = AdminClient()
    key = await admin.create()

    assert (await admin.ask("GET", "/v1/keys/ann")).json()["id"] == key["id"]


async def test_change_keeps_the_other_fields() -> None:
    admin = AdminClient()
    await admin.create()

    changed = await admin.ask(
        "POST", "/v1/keys/ann", {"disabled": True, "limits": {"tokens_per_day": 5}}
    )

    assert changed.status == 200
    assert changed.json()["disabled"]
    assert changed.json()["models"] == ["llm*"]
    assert changed.json()["limits"]["requests_per_minute"] == 9
    assert changed.json()["limits"]["tokens_per_day"] == 5
    assert "key" not in changed.json()


async def test_deleted_key_returns_404() -> None:
    admin = AdminClient()
    key = await admin.create()

    deleted = await admin.ask("DELETE", "/v1/keys/ann")

    assert deleted.json() == {"object": "key", "id": key["id"], "deleted": True}
    assert (await admin.ask("GET", "/v1/keys")).json()["data"] == []


@pytest.mark.parametrize(("body", "grace_s"), [({}, 0.0), ({"grace_s": 60}, 60.0)])
async def test_rotated_key_is_shown_with_its_new_secret(body: Any, grace_s: float) -> None:
    admin = AdminClient()
    key = await admin.create()

    rotated = await admin.ask("POST", "/v1/keys/ann/rotate", body)

    assert rotated.json() == {**key, "key": "secret 2"}
    assert admin.administration.graces_s == [grace_s]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/keys/absent", None),
        ("POST", "/v1/keys/absent", {}),
        ("DELETE", "/v1/keys/absent", None),
        ("POST", "/v1/keys/absent/rotate", {}),
    ],
)
async def test_unknown_key_returns_404(method: str, path: str, body: Any) -> None:
    response = await AdminClient().ask(method, path, body)

    assert response.error() == (404, "key_not_found", None)


@pytest.mark.parametrize(
    ("path", "body", "code", "param"),
    [
        ("/v1/keys", {}, "missing_required_parameter", "name"),
        ("/v1/keys", {"name": ""}, "invalid_value", "name"),
        ("/v1/keys", {"name": "root", "key": "sk-mine"}, "unknown_parameter", "key"),
        ("/v1/keys", {"name": "ann"}, "invalid_value", "name"),
        ("/v1/keys/ann", {"disabled": 1}, "invalid_value", "disabled"),
        ("/v1/keys/ann/rotate", {"grace_s": -1}, "invalid_value", "grace_s"),
    ],
)
async def test_invalid_body_is_refused_by_parameter(
    path: str, body: Any, code: str, param: str
) -> None:
    admin = AdminClient()
    await admin.create()

    response = await admin.ask("POST", path, body)

    assert response.error() == (400, code, param)


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/keys/ann", "/v1/keys/ann/rotate"])
async def test_body_that_is_not_json_returns_415(path: str) -> None:
    admin = AdminClient()
    await admin.create()

    response = await admin.ask("POST", path)

    assert response.error() == (415, "unsupported_media_type", None)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/keys", {"GET", "HEAD", "POST"}),
        ("PUT", "/v1/keys/ann", {"GET", "HEAD", "POST", "DELETE"}),
        ("GET", "/v1/keys/ann/rotate", {"POST"}),
        ("POST", "/v1/usage", {"GET", "HEAD"}),
    ],
)
async def test_wrong_method_returns_the_allowed_ones(
    method: str, path: str, allowed: set[str]
) -> None:
    response = await AdminClient().ask(method, path)

    assert response.error() == (405, "method_not_allowed", None)
    assert set(response.headers["allow"].split(", ")) == allowed
