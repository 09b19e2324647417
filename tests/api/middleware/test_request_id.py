import re

import pytest
from starlette.types import Receive, Scope, Send

from api.http.response import send_json
from api.middleware.request_id import RequestIdMiddleware, get_request_id
from tests.helpers.asgi import request, to_scope


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await send_json(send, get_request_id(scope))


APP = RequestIdMiddleware(echo)


async def test_request_without_id_gets_one() -> None:
    response = await request(APP, "GET", "/")

    assert re.fullmatch(r"req_[0-9a-f]{32}", response.headers["x-request-id"])


async def test_application_gets_the_id_of_the_response() -> None:
    response = await request(APP, "GET", "/")

    assert response.json() == response.headers["x-request-id"]


async def test_two_requests_get_different_ids() -> None:
    first = await request(APP, "GET", "/")
    second = await request(APP, "GET", "/")

    assert first.json() != second.json()


@pytest.mark.parametrize(
    "offered",
    ["a", "3f2504e0-4f89-41d3-9a0c-0305e82c3301", "a.b_c-D", 'a"', "<script>", "a/b;c", "x" * 128],
)
async def test_harmless_id_of_the_client_is_used(offered: str) -> None:
    response = await request(APP, "GET", "/", headers={"x-request-id": offered})

    assert response.json() == offered
    assert response.headers["x-request-id"] == offered


@pytest.mark.parametrize(
    "offered", ["", "x" * 129, "a b", "a\tb", "a\nb", "a\n", "a\x7f", "é", "²"]
)
async def test_any_other_id_is_replaced(offered: str) -> None:
    response = await request(APP, "GET", "/", headers={"x-request-id": offered})

    assert response.json().startswith("req_")


async def test_header_is_left_to_a_server_that_adds_it() -> None:
    app = RequestIdMiddleware(echo, is_echoed_outside=True)

    response = await request(app, "GET", "/", headers={"x-request-id": "mine"})

    assert response.json() == "mine"
    assert "x-request-id" not in response.headers


async def test_other_scopes_pass_unchanged() -> None:
    scopes: list[Scope] = []

    async def record(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(scope)

    scope = {**to_scope("GET", "/", {}), "type": "lifespan"}
    await RequestIdMiddleware(record)(scope, None, None)  # type: ignore[arg-type]

    assert scopes == [scope]
    assert "triptych.request_id" not in scope
