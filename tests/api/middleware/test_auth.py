from dataclasses import replace

import pytest
from starlette.types import Message, Receive, Scope, Send

from api.access.failed_keys import CLIENT_ADDRESS_HEADER, FailedKeys
from api.access.key_format import digest
from api.access.key_ring import KeyDigest, KeyRing, Keys, to_entries
from api.middleware.auth import AuthMiddleware, get_key
from api.ports.tenancy import MODEL_SCOPES, Key
from tests.helpers.asgi import Exchange, request, to_scope
from tests.helpers.fakes import PEPPER, SECRET, FakeLlm, build_app, keys_of

KEYS = Keys(KeyRing([], PEPPER), failed_keys=FailedKeys(10**6, 10**6))
KEYS.swap(KeyRing(to_entries(["sk-one", "sk-two"], PEPPER), PEPPER))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("key", ["sk-one", "sk-two"])
async def test_valid_key_authenticates(key: str) -> None:
    response = await request(build_app(keys=KEYS), "GET", "/v1/models", headers=bearer(key))

    assert response.status == 200


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
async def test_case_of_the_scheme_does_not_matter(scheme: str) -> None:
    headers = {"authorization": f"{scheme} sk-one"}

    response = await request(build_app(keys=KEYS), "GET", "/v1/models", headers=headers)

    assert response.status == 200


@pytest.mark.parametrize("headers", [{}, {"authorization": ""}])
async def test_missing_key_returns_401(headers: dict[str, str]) -> None:
    response = await request(build_app(keys=KEYS), "GET", "/v1/models", headers=headers)

    assert response.error() == (401, "invalid_api_key", None)
    assert response.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer" in response.message()


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer wrong",
        "Bearer sk-on",
        "Bearer sk-one2",
        "Bearer SK-ONE",
        "Bearer",
        "Bearer ",
        "Bearer  sk-one",
        "Bearer sk-one ",
        "Bearer sk-one,sk-two",
        "Bearersk-one",
        "sk-one",
        "Basic sk-one",
        "Token sk-one",
        " Bearer sk-one",
        "Bearer\tsk-one",
        "Bearer sk-öne",
        "Bearer ÿ",
        "Bearer " + "x" * 257,
        "Bearer " + "x" * 1_000_000,
    ],
    ids=lambda value: value[:24],
)
async def test_wrong_key_returns_401(authorization: str) -> None:
    headers = {"authorization": authorization}

    response = await request(build_app(keys=KEYS), "GET", "/v1/models", headers=headers)

    assert response.error() == (401, "invalid_api_key", None)
    assert response.headers["www-authenticate"] == "Bearer"


async def test_wrong_key_is_not_echoed() -> None:
    response = await request(build_app(keys=KEYS), "GET", "/v1/models", headers=bearer("sk-three"))

    assert b"sk-three" not in response.body


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("GET", "/v1/models/llm"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/images/generations"),
        ("GET", "/"),
        ("GET", "/nowhere"),
        ("GET", "/health/"),
        ("GET", "//health"),
        ("GET", "/health//"),
        ("GET", "/./health"),
        ("GET", "/Health"),
        ("GET", "/health/../v1/models"),
        ("GET", "/ready/../v1/models"),
        ("GET", "/health%2f..%2fv1%2fmodels"),
        ("GET", "/health%00"),
        ("GET", "/health%0a"),
        ("GET", "/health%20"),
        ("GET", "/health;/v1/models"),
        ("GET", "/v1/models?/health"),
        ("GET", "/v1/models%3f/health"),
        ("GET", "/%2fhealth"),
        ("GET", "*"),
    ],
)
async def test_every_other_path_needs_a_key(method: str, path: str) -> None:
    response = await request(build_app(keys=KEYS), method, path)

    assert response.error() == (401, "invalid_api_key", None)


@pytest.mark.parametrize("path", ["/health", "/ready", "/health?x=1", "/%68ealth"])
async def test_public_path_needs_no_key(path: str) -> None:
    response = await request(build_app(keys=KEYS), "GET", path)

    assert response.status == 200


async def test_public_path_ignores_a_wrong_key() -> None:
    response = await request(build_app(keys=KEYS), "GET", "/health", headers=bearer("wrong"))

    assert response.status == 200


async def test_without_authentication_no_key_is_needed() -> None:
    response = await request(build_app(keys=None), "GET", "/v1/models")

    assert response.status == 200


async def test_body_of_an_unauthenticated_request_is_not_read() -> None:
    async def fail() -> None:
        raise AssertionError("the body was read")

    app = build_app(keys=KEYS)
    sent = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await app(to_scope("POST", "/v1/completions", {}), fail, send)  # type: ignore[arg-type]

    assert sent[0]["status"] == 401


async def test_scope_that_is_not_http_passes() -> None:
    scopes: list[str] = []

    async def record(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope["type"])

    await AuthMiddleware(record, KEYS, frozenset())({"type": "lifespan"}, None, None)  # type: ignore[arg-type]

    assert scopes == ["lifespan"]


async def test_key_in_the_query_string_does_not_authenticate() -> None:
    """Keys in URLs end up in logs and histories."""
    path = "/v1/models?api_key=sk-one&key=sk-one&access_token=sk-one"

    response = await request(build_app(keys=KEYS), "GET", path)

    assert response.error() == (401, "invalid_api_key", None)


@pytest.mark.parametrize("values", [("sk-one", "sk-one"), ("sk-one", "wrong"), ("", "sk-one")])
async def test_two_authorization_headers_return_401(values: tuple[str, str]) -> None:
    """A proxy in front of the service may have checked the other one."""
    scope = to_scope("GET", "/v1/models", {})
    scope["headers"] = [(b"authorization", f"Bearer {value}".encode()) for value in values]
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    await build_app(keys=KEYS)(scope, receive, send)

    assert sent[0]["status"] == 401


KEY = Key("k0000001", "ann", "acme")
PAST_S = 1.0


def ring_of(key: Key, until_s: float | None = None) -> KeyRing:
    return KeyRing([KeyDigest(key, digest(PEPPER, SECRET), until_s)], PEPPER)


REFUSING = {
    "unknown": KeyRing([], PEPPER),
    "expired": ring_of(replace(KEY, expires_at_s=PAST_S)),
    "disabled": ring_of(replace(KEY, is_disabled=True)),
    "rotated": ring_of(KEY, PAST_S),
    "of another pepper": KeyRing([KeyDigest(KEY, digest(b"other", SECRET))], PEPPER),
}


@pytest.mark.parametrize("ring", REFUSING.values(), ids=REFUSING)
async def test_all_keys_that_are_not_valid_get_the_same_answer(ring: KeyRing) -> None:
    keys = keys_of(KEY)
    keys.swap(ring)

    response = await request(build_app(keys=keys), "GET", "/v1/models", headers=bearer(SECRET))

    assert response.error() == (401, "invalid_api_key", None)
    assert response.message() == "The API key is not valid."
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "offered", ["' OR 1=1 --", '"; DROP TABLE keys; --', "*)(uid=*))(|(uid=*", "%00", "${jndi:x}"]
)
async def test_injection_in_a_key_returns_401(offered: str) -> None:
    response = await request(build_app(keys=KEYS), "GET", "/v1/models", headers=bearer(offered))

    assert response.error() == (401, "invalid_api_key", None)


async def find_key_in_scope(keys: Keys | None, headers: dict[str, str]) -> Key:
    found: list[Key] = []

    async def record(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(get_key(scope))

    scope = to_scope("GET", "/v1/models", headers)
    await AuthMiddleware(record, keys, frozenset())(scope, None, None)  # type: ignore[arg-type]
    return found[0]


async def test_scope_has_the_key_of_the_secret() -> None:
    assert await find_key_in_scope(keys_of(KEY), bearer(SECRET)) is KEY


async def test_without_authentication_all_requests_have_the_anonymous_key() -> None:
    key = await find_key_in_scope(None, bearer("any"))

    assert (key.id, key.tenant, key.scopes) == ("anonymous", "default", MODEL_SCOPES)
    assert not key.limits.has_any


async def test_swap_takes_effect_at_the_next_request() -> None:
    keys = keys_of(KEY)
    app = build_app(keys=keys)

    before = await request(app, "GET", "/v1/models", headers=bearer(SECRET))
    keys.swap(KeyRing([], PEPPER))
    after = await request(app, "GET", "/v1/models", headers=bearer(SECRET))

    assert (before.status, after.status) == (200, 401)


async def test_stream_under_way_outlives_its_key() -> None:
    llm, keys = FakeLlm(held=True), keys_of(KEY)
    body = b'{"model": "llm", "prompt": "Once", "stream": true}'
    headers = {**bearer(SECRET), "content-type": "application/json"}
    app = build_app(llm, keys=keys)
    async with Exchange(app, "POST", "/v1/completions", headers=headers, chunks=[body]) as exchange:
        await llm.gate.waiting.wait()
        keys.swap(REFUSING["disabled"])
        llm.gate.release(10)
        response = await exchange.end()

    assert response.events()[-1] == "[DONE]"


async def test_unknown_key_returns_503_until_keys_are_loaded() -> None:
    app = build_app(keys=keys_of(KEY, is_known=False))

    response = await request(app, "GET", "/v1/models", headers=bearer("sk-two"))

    assert response.error() == (503, "keys_unknown", None)
    assert response.headers["retry-after"] == "2"


async def test_known_key_authenticates_before_keys_are_loaded() -> None:
    app = build_app(keys=keys_of(KEY, is_known=False))

    response = await request(app, "GET", "/v1/models", headers=bearer(SECRET))

    assert response.status == 200


async def test_missing_key_returns_401_before_keys_are_loaded() -> None:
    response = await request(build_app(keys=keys_of(KEY, is_known=False)), "GET", "/v1/models")

    assert response.error() == (401, "invalid_api_key", None)


@pytest.mark.parametrize(
    ("headers", "is_known", "failures"),
    [
        (bearer(SECRET), True, 0),
        (bearer("wrong"), True, 1),
        ({"authorization": "Basic x"}, True, 1),
        ({}, True, 1),
        (bearer("wrong"), False, 0),
    ],
)
async def test_every_401_is_reported_as_a_failure(
    headers: dict[str, str], is_known: bool, failures: int
) -> None:
    reported: list[None] = []
    keys = keys_of(KEY, is_known=is_known)
    keys.on_failure = lambda: reported.append(None)

    await request(build_app(keys=keys), "GET", "/v1/models", headers=headers)

    assert len(reported) == failures


def from_address(address: str, secret: str) -> dict[str, str]:
    return {CLIENT_ADDRESS_HEADER: address, **bearer(secret)}


async def test_wrong_keys_of_one_address_get_429_after_too_many() -> None:
    keys = keys_of(KEY)
    keys.failed_keys = FailedKeys(most_of_an_address=3)
    app = build_app(keys=keys)

    wrong = [
        await request(app, "GET", "/v1/models", headers=from_address("1.1.1.1", f"wrong-{n}"))
        for n in range(4)
    ]
    other = await request(app, "GET", "/v1/models", headers=from_address("2.2.2.2", "wrong"))
    right = await request(app, "GET", "/v1/models", headers=from_address("1.1.1.1", SECRET))
    missing = await request(app, "GET", "/v1/models", headers={CLIENT_ADDRESS_HEADER: "1.1.1.1"})

    assert [response.status for response in wrong] == [401, 401, 401, 429]
    assert wrong[3].error() == (429, "too_many_failed_keys", None)
    assert 1 <= int(wrong[3].headers["retry-after"]) <= 60
    assert wrong[3].headers["x-should-retry"] == "false"
    assert (other.status, right.status, missing.status) == (401, 200, 401)


async def test_wrong_keys_sent_to_a_public_path_are_counted_too() -> None:
    keys = keys_of(KEY)
    keys.failed_keys = FailedKeys(most_of_an_address=1)
    app = build_app(keys=keys)

    statuses = [
        (await request(app, "GET", "/ready", headers=from_address("1.1.1.1", "wrong"))).status
        for _ in range(2)
    ]

    assert statuses == [401, 429]
