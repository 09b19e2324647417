import pytest

from api.app import create_app
from api.ports.tenancy import Key
from api.registry import ModelEntry, Models, Registry, State
from api.services import Services
from tests.helpers.asgi import Response, request
from tests.helpers.fakes import SECRET, FakeEncoder, FakeLlm, build_app, keys_of

OWN = {"authorization": f"Bearer {SECRET}"}


def entry(model_id: str, state: State, message: str | None = None) -> ModelEntry:
    return ModelEntry(model_id, "llm", state, FakeLlm(), 0, message)


async def ask_ready(models: Models, path: str = "/ready") -> Response:
    return await request(create_app(models, None, Services()), "GET", path)


async def test_health_is_ok() -> None:
    response = await request(build_app(), "GET", "/health")

    assert (response.status, response.json()) == (200, {"status": "ok"})
    assert response.headers["x-request-id"]


async def test_health_is_ok_if_a_model_has_failed() -> None:
    models = Models(Registry([entry("a", "failed")]))

    response = await request(create_app(models, None, Services()), "GET", "/health")

    assert response.status == 200


async def test_health_answers_head() -> None:
    response = await request(build_app(), "HEAD", "/health")

    assert response.status == 200


async def test_ready_shows_every_model_by_id() -> None:
    models = Models(
        Registry([entry("a", "ready"), ModelEntry("b/c", "embedding", "ready", FakeEncoder(), 0)])
    )

    response = await ask_ready(models)

    assert response.status == 200
    assert response.json() == {
        "status": "ready",
        "counts": {"ready": 2},
        "models": {
            "a": {"kind": "llm", "state": "ready", "message": None},
            "b/c": {"kind": "embedding", "state": "ready", "message": None},
        },
    }


async def test_ready_reports_why_a_model_failed() -> None:
    response = await ask_ready(Models(Registry([entry("a", "failed", "no such folder")])))

    assert response.json()["models"]["a"]["message"] == "no such folder"


@pytest.mark.parametrize(
    ("states", "status", "summary"),
    [
        (["ready"], 200, "ready"),
        (["ready", "idle"], 200, "ready"),
        (["ready", "starting"], 503, "starting"),
        (["ready", "failed"], 503, "failed"),
        (["starting", "failed"], 503, "starting"),
        ([], 200, "ready"),
    ],
)
async def test_ready_needs_every_model(states: list[State], status: int, summary: str) -> None:
    models = Models(Registry(entry(f"m{number}", state) for number, state in enumerate(states)))

    response = await ask_ready(models)

    assert (response.status, response.json()["status"]) == (status, summary)


async def test_service_is_not_ready_before_the_models_are_known() -> None:
    response = await ask_ready(Models())

    assert response.status == 503
    assert response.json() == {"status": "starting", "counts": {}, "models": {}}


@pytest.mark.parametrize(
    ("is_known", "note", "state", "status", "summary"),
    [
        (True, None, "known", 200, "ready"),
        (True, "the store does not answer", "stale", 200, "ready"),
        (False, None, "unknown", 503, "starting"),
        (False, "the store does not answer", "unknown", 503, "starting"),
    ],
)
async def test_ready_reports_the_state_of_the_keys(
    is_known: bool, note: str | None, state: str, status: int, summary: str
) -> None:
    """Stale keys still authenticate, so the service stays ready."""
    keys = keys_of(Key("k", "k", "t"), is_known=is_known)
    keys.note = note

    with_key = await request(build_app(keys=keys), "GET", "/ready", headers=OWN)
    without_key = await request(build_app(keys=keys), "GET", "/ready")

    for response in (with_key, without_key):
        assert (response.status, response.json()["status"]) == (status, summary)
    assert with_key.json()["keys"] == {"state": state, "message": note}
    assert without_key.json()["keys"] == {"state": state}


async def test_ready_without_authentication_does_not_report_keys() -> None:
    assert "keys" not in (await request(build_app(), "GET", "/ready")).json()


async def test_ready_changes_with_the_models() -> None:
    models = Models()
    app = create_app(models, None, Services())

    before = await request(app, "GET", "/ready")
    models.swap(Registry([entry("a", "ready")]))
    after = await request(app, "GET", "/ready")

    assert (before.status, after.status) == (503, 200)


FLEET = Registry([entry("a", "ready"), entry("org/b", "starting"), entry("c", "idle")])


@pytest.mark.parametrize(
    ("path", "status", "ids"),
    [
        ("/ready/a", 200, ["a"]),
        ("/ready/org/b", 503, ["org/b"]),
        ("/ready/c", 200, ["c"]),
        ("/ready?model=a", 200, ["a"]),
        ("/ready?model=org%2Fb", 503, ["org/b"]),
        ("/ready?model=a&model=c", 200, ["a", "c"]),
        ("/ready?model=a&model=org/b", 503, ["a", "org/b"]),
        ("/ready", 503, ["a", "org/b", "c"]),
    ],
)
async def test_named_models_are_all_that_count(path: str, status: int, ids: list[str]) -> None:
    response = await ask_ready(Models(FLEET), path)

    assert response.status == status
    assert list(response.json()["models"]) == ids


@pytest.mark.parametrize("path", ["/ready/x", "/ready?model=x", "/ready?model=a&model=x"])
async def test_unknown_model_is_not_found(path: str) -> None:
    response = await ask_ready(Models(FLEET), path)

    assert response.error() == (404, "model_not_found", "model")


async def test_named_model_is_starting_until_the_models_are_known() -> None:
    response = await ask_ready(Models(), "/ready/a")

    assert (response.status, response.json()["status"]) == (503, "starting")


@pytest.mark.parametrize("is_known", [True, False])
async def test_without_a_key_models_are_counted_and_not_named(is_known: bool) -> None:
    keys = keys_of(Key("k", "k", "t"), is_known=is_known)
    keys.note = "a reason"
    headers = {} if is_known else {"authorization": "Bearer not-known-yet"}

    response = await request(
        create_app(Models(FLEET), keys, Services()), "GET", "/ready", headers=headers
    )

    assert response.json() == {
        "status": "starting",
        "counts": {"ready": 1, "starting": 1, "idle": 1},
        "keys": {"state": "stale" if is_known else "unknown"},
    }


async def test_key_sees_the_models_that_it_may_use() -> None:
    keys = keys_of(Key("k", "k", "t", models=("a", "c")))

    response = await request(
        create_app(Models(FLEET), keys, Services()), "GET", "/ready", headers=OWN
    )

    assert response.status == 200
    assert list(response.json()["models"]) == ["a", "c"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/ready/a", 200), ("/ready?model=a", 200), ("/ready/c", 404), ("/ready?model=c", 404)],
)
async def test_single_model_needs_a_key_that_may_use_it(path: str, status: int) -> None:
    app = create_app(Models(FLEET), keys_of(Key("k", "k", "t", models=("a",))), Services())

    assert (await request(app, "GET", path, headers=OWN)).status == status
    assert (await request(app, "GET", path)).error() == (401, "invalid_api_key", None)


async def test_readiness_is_not_told_to_a_wrong_key() -> None:
    """It would tell good keys from bad ones."""
    app = build_app(keys=keys_of(Key("k", "k", "t")))

    response = await request(app, "GET", "/ready", headers={"authorization": "Bearer wrong"})

    assert response.error() == (401, "invalid_api_key", None)
