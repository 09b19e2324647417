import hmac
from dataclasses import replace

import pytest
from starlette.types import Message, Receive, Scope, Send

from api.access.key_format import digest
from api.access.key_ring import KeyDigest, KeyRing, Keys, to_entries
from api.middleware.auth import AuthMiddleware, get_key
from api.ports.tenancy import MODEL_SCOPES, Key
from tests.helpers.asgi import Exchange, request, to_scope
from tests.helpers.fakes import PEPPER, SECRET, FakeLlm, build_app, keys_of

KEYS = Keys.of_environment(["sk-one", "sk-two"], PEPPER)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("key", ["sk-one", "sk-two"])
async def test_each_key_opens(key: str) -> None:
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


async def test_offered_key_is_not_echoed() -> None:
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


async def test_public_path_passes_with_a_wrong_key() -> None:
    response = await request(build_app(keys=KEYS), "GET", "/health", headers=bearer("wrong"))

    assert response.status == 200


async def test_no_keys_lets_everyone_in() -> None:
    response = await request(build_app(keys=None), "GET", "/v1/models")

    assert response.status == 200


async def test_body_of_a_stranger_is_not_read() -> None:
    async def fail() -> None:
        raise AssertionError("the body was read")

    app = build_app(keys=KEYS)
    sent = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await app(to_scope("POST", "/v1/completions", {}), fail, send)  # type: ignore[arg-type]

    assert sent[0]["status"] == 401


async def test_scopes_that_are_no_request_pass() -> None:
    seen: list[str] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    await AuthMiddleware(note, KEYS, frozenset())({"type": "lifespan"}, None, None)  # type: ignore[arg-type]

    assert seen == ["lifespan"]


def test_repr_shows_no_key() -> None:
    ring = KEYS.current

    assert repr(ring) == str(ring) == "KeyRing(2)"
    assert "sk-one" not in repr(vars(KEYS))
    assert "sk-one" not in repr(vars(ring))


def test_an_entry_does_not_show_its_digest() -> None:
    (entry,) = to_entries(["sk-one"], PEPPER)

    assert entry.digest == digest(PEPPER, "sk-one")
    assert "digest" not in repr(entry)


def test_no_key_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one API key"):
        Keys.of_environment([], PEPPER)


@pytest.mark.parametrize("key", ["x" * 257, "sk-öne", ""], ids=["long", "not ASCII", "empty"])
def test_key_that_could_never_be_offered_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="API key") as caught:
        Keys.of_environment(["sk-one", key], PEPPER)

    assert key not in str(caught.value) or not key


async def test_a_query_string_opens_nothing() -> None:
    """Keys in URLs end in logs and histories."""
    path = "/v1/models?api_key=sk-one&key=sk-one&access_token=sk-one"

    response = await request(build_app(keys=KEYS), "GET", path)

    assert response.error() == (401, "invalid_api_key", None)


@pytest.mark.parametrize("values", [("sk-one", "sk-one"), ("sk-one", "wrong"), ("", "sk-one")])
async def test_two_headers_are_refused(values: tuple[str, str]) -> None:
    """A proxy in front may have looked at the one that is not used here."""
    scope = to_scope("GET", "/v1/models", {})
    scope["headers"] = [(b"authorization", f"Bearer {value}".encode()) for value in values]
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await build_app(keys=KEYS)(scope, to_nothing, send)

    assert sent[0]["status"] == 401


async def to_nothing() -> Message:
    return {"type": "http.request", "body": b""}


KEY = Key("k0000001", "ann", "acme")
PAST_S, FUTURE_S = 1.0, 4e9


def ring_of(key: Key, until_s: float | None = None) -> KeyRing:
    return KeyRing([KeyDigest(key, digest(PEPPER, SECRET), until_s)], PEPPER)


CLOSED = {
    "unknown": KeyRing([], PEPPER),
    "expired": ring_of(replace(KEY, expires_at_s=PAST_S)),
    "disabled": ring_of(replace(KEY, is_disabled=True)),
    "rotated": ring_of(KEY, PAST_S),
    "of another pepper": KeyRing([KeyDigest(KEY, digest(b"other", SECRET))], PEPPER),
}


@pytest.mark.parametrize("ring", CLOSED.values(), ids=CLOSED)
async def test_all_keys_that_do_not_open_get_the_same_answer(ring: KeyRing) -> None:
    keys = Keys.of_environment(["other"], PEPPER)
    keys.swap(ring)

    response = await request(build_app(keys=keys), "GET", "/v1/models", headers=bearer(SECRET))

    assert response.error() == (401, "invalid_api_key", None)
    assert response.message() == "The API key is not valid."
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("until_s", [None, FUTURE_S])
@pytest.mark.parametrize("expires_at_s", [None, FUTURE_S])
def test_a_key_opens_until_its_time(until_s: float | None, expires_at_s: float | None) -> None:
    key = replace(KEY, expires_at_s=expires_at_s)

    assert ring_of(key, until_s).find(SECRET, FUTURE_S - 1) is key


def test_a_key_that_is_rotated_opens_by_both_its_secrets() -> None:
    ring = KeyRing(
        [KeyDigest(KEY, digest(PEPPER, "old"), FUTURE_S), KeyDigest(KEY, digest(PEPPER, "new"))],
        PEPPER,
    )

    assert ring.find("old", FUTURE_S - 1) is ring.find("new", FUTURE_S - 1) is KEY
    assert ring.find("old", FUTURE_S) is None
    assert ring.find("new", FUTURE_S) is KEY


OFFERED = {
    "known": SECRET,
    "shares nothing": "x" * 64,
    "shares all but the last": SECRET[:-1] + "x",
    "longer": SECRET + "x",
    "as long as can be": "x" * 256,
    "expired": "expired",
    "disabled": "disabled",
    "rotated": "rotated",
}


@pytest.mark.parametrize("offered", OFFERED.values(), ids=OFFERED)
def test_every_look_up_is_one_digest_and_one_comparison(
    offered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So its time says nothing about which keys there are, nor about how they begin."""
    ring = KeyRing(
        [
            KeyDigest(KEY, digest(PEPPER, SECRET)),
            KeyDigest(replace(KEY, expires_at_s=PAST_S), digest(PEPPER, "expired")),
            KeyDigest(replace(KEY, is_disabled=True), digest(PEPPER, "disabled")),
            KeyDigest(KEY, digest(PEPPER, "rotated"), PAST_S),
        ],
        PEPPER,
    )
    done: list[str] = []
    compare, make = hmac.compare_digest, hmac.digest
    monkeypatch.setattr(hmac, "digest", lambda *args: (done.append("digest"), make(*args))[1])
    monkeypatch.setattr(
        hmac, "compare_digest", lambda *args: (done.append("comparison"), compare(*args))[1]
    )

    ring.find(offered, 2.0)

    assert done == ["digest", "comparison"]


@pytest.mark.parametrize("offered", ["", "sk-öne", "x" * 257, "x" * 1_000_000])
def test_what_cannot_be_a_key_is_not_even_digested(
    offered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hmac, "digest", None)

    assert KEYS.current.find(offered, 0.0) is None


@pytest.mark.parametrize(
    "offered", ["' OR 1=1 --", '"; DROP TABLE keys; --', "*)(uid=*))(|(uid=*", "%00", "${jndi:x}"]
)
async def test_quotes_are_just_characters(offered: str) -> None:
    response = await request(build_app(keys=KEYS), "GET", "/v1/models", headers=bearer(offered))

    assert response.error() == (401, "invalid_api_key", None)


def test_keys_of_the_environment_are_told_apart_and_may_all_but_administer() -> None:
    one, two = (KEYS.current.find(secret, 0.0) for secret in ("sk-one", "sk-two"))

    assert one
    assert two
    assert one.id == one.name == f"env-{digest(PEPPER, 'sk-one').hex()[:8]}"
    assert one.id != two.id
    assert (one.tenant, one.models, one.scopes) == ("default", ("*",), MODEL_SCOPES)
    assert one.may_log_prompts
    assert not one.limits.has_any


async def seen_by_application(keys: Keys | None, headers: dict[str, str]) -> Key:
    seen: list[Key] = []

    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(get_key(scope))

    scope = to_scope("GET", "/v1/models", headers)
    await AuthMiddleware(note, keys, frozenset())(scope, None, None)  # type: ignore[arg-type]
    return seen[0]


async def test_the_application_is_told_whose_key_it_is() -> None:
    assert await seen_by_application(keys_of(KEY), bearer(SECRET)) is KEY


async def test_without_authentication_everybody_is_one_key() -> None:
    key = await seen_by_application(None, bearer("whatever"))

    assert (key.id, key.tenant, key.scopes) == ("anonymous", "default", MODEL_SCOPES)
    assert not key.limits.has_any


def test_keys_are_unknown_until_the_first_swap() -> None:
    keys = Keys(KeyRing([], PEPPER))
    before = keys.is_known

    keys.swap(ring_of(KEY))

    assert (before, keys.is_known) == (False, True)


def test_a_swap_takes_the_note_away() -> None:
    keys = keys_of(KEY)
    keys.note = "the store does not answer"

    keys.swap(ring_of(KEY))

    assert keys.note is None


async def test_a_swap_counts_for_the_next_request() -> None:
    keys = keys_of(KEY)
    app = build_app(keys=keys)

    before = await request(app, "GET", "/v1/models", headers=bearer(SECRET))
    keys.swap(KeyRing([], PEPPER))
    after = await request(app, "GET", "/v1/models", headers=bearer(SECRET))

    assert (before.status, after.status) == (200, 401)


async def test_a_stream_under_way_outlives_its_key() -> None:
    llm, keys = FakeLlm(held=True), keys_of(KEY)
    body = b'{"model": "llm", "prompt": "Once", "stream": true}'
    headers = {**bearer(SECRET), "content-type": "application/json"}
    app = build_app(llm, keys=keys)
    async with Exchange(app, "POST", "/v1/completions", headers=headers, chunks=[body]) as exchange:
        await llm.gate.waiting.wait()
        keys.swap(CLOSED["disabled"])
        llm.gate.release(10)
        response = await exchange.end()

    assert response.events()[-1] == "[DONE]"


async def test_an_unknown_key_is_asked_to_come_back_while_keys_are_not_known() -> None:
    app = build_app(keys=keys_of(KEY, is_known=False))

    response = await request(app, "GET", "/v1/models", headers=bearer("sk-two"))

    assert response.error() == (503, "keys_unknown", None)
    assert response.headers["retry-after"] == "2"


async def test_a_known_key_opens_while_others_are_not_known() -> None:
    app = build_app(keys=keys_of(KEY, is_known=False))

    response = await request(app, "GET", "/v1/models", headers=bearer(SECRET))

    assert response.status == 200


async def test_no_key_is_no_key_while_keys_are_not_known() -> None:
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
async def test_failures_are_told(headers: dict[str, str], is_known: bool, failures: int) -> None:
    told: list[None] = []
    keys = keys_of(KEY, is_known=is_known)
    keys.on_failure = lambda: told.append(None)

    await request(build_app(keys=keys), "GET", "/v1/models", headers=headers)

    assert len(told) == failures
