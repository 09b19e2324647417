import pytest
from starlette.types import Receive, Scope, Send

from api.auth import ApiKeys, Auth
from tests.asgi import request, to_scope
from tests.fakes import build_app

KEYS = ApiKeys(["sk-one", "sk-two"])


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

    await Auth(note, KEYS, frozenset())({"type": "lifespan"}, None, None)  # type: ignore[arg-type]

    assert seen == ["lifespan"]


def test_repr_shows_no_key() -> None:
    assert repr(KEYS) == str(KEYS) == "ApiKeys(2)"


def test_object_holds_no_key() -> None:
    assert "sk-one" not in repr(vars(KEYS))


def test_no_key_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one API key"):
        ApiKeys([])


@pytest.mark.parametrize("key", ["x" * 257, "sk-öne", ""], ids=["long", "not ASCII", "empty"])
def test_key_that_could_never_be_offered_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="API key") as caught:
        ApiKeys(["sk-one", key])

    assert key not in str(caught.value) or not key
