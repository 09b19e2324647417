"""What may be replaced while the application runs counts for the next request."""

import pytest

from api.app import create_app
from api.ports.tenancy import SCOPES, Key
from api.services import Services
from api.settings import Limits, Policy
from tests.helpers.asgi import request
from tests.helpers.fakes import (
    ENCODER,
    LLM,
    PAINTER,
    SECRET,
    FakeAdministration,
    FakeLlm,
    build_models,
    keys_of,
)

KEY = Key("key00000", "root", "ops", scopes=frozenset(SCOPES))
BODIES = {
    "/v1/chat/completions": {"model": LLM, "messages": [{"role": "user", "content": "a" * 2000}]},
    "/v1/completions": {"model": LLM, "prompt": "a" * 2000},
    "/v1/embeddings": {"model": ENCODER, "input": "a" * 2000},
    "/v1/images/generations": {"model": PAINTER, "prompt": "a" * 2000},
    "/v1/keys": {"name": "a" * 2000},
}


@pytest.mark.parametrize("path", BODIES)
async def test_replaced_limits_count(path: str) -> None:
    services = Services()
    keys, administration = keys_of(KEY), FakeAdministration()
    app = create_app(build_models(), keys, services, administration=administration)
    services.limits = Limits(max_body_bytes=1024)
    headers = {"authorization": f"Bearer {SECRET}"}

    response = await request(app, "POST", path, json_body=BODIES[path], headers=headers)

    assert response.error() == (413, "payload_too_large", None)


@pytest.mark.parametrize("path", BODIES.keys() - {"/v1/keys"})
async def test_replaced_policy_counts(path: str) -> None:
    services = Services()
    app = create_app(build_models(), None, services)
    body = {**BODIES[path], "colour": 1}
    before = await request(app, "POST", path, json_body=body)
    services.policy = Policy(parameters="lenient")

    after = await request(app, "POST", path, json_body=body)

    assert before.error() == (400, "unknown_parameter", "colour")
    assert after.status == 200
    assert after.headers["x-ignored-parameters"] == "colour"


async def test_replaced_deadline_counts() -> None:
    services = Services()
    app = create_app(build_models(FakeLlm(held=True)), None, services)
    services.limits = Limits(request_timeout_s=0.01)
    path = "/v1/chat/completions"

    response = await request(app, "POST", path, json_body=BODIES[path])

    assert response.error() == (504, "deadline_exceeded", None)
