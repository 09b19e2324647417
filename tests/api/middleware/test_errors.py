import logging

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from api.errors import InvalidRequestError, OverloadedError
from api.http.response import send_json
from api.middleware.errors import ErrorMiddleware
from api.middleware.request_id import RequestIdMiddleware
from tests.helpers.asgi import Exchange, Response, request


class Failing:
    """An application that raises before or after the start of its response."""

    def __init__(self, error: BaseException, *, is_late: bool = False) -> None:
        self.error = error
        self.is_late = is_late

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.is_late:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise self.error


async def ask(error: BaseException) -> Response:
    return await request(RequestIdMiddleware(ErrorMiddleware(Failing(error))), "GET", "/")


async def ask_late(error: BaseException) -> Response:
    exchange = Exchange(
        RequestIdMiddleware(ErrorMiddleware(Failing(error, is_late=True))), "GET", "/"
    )
    with pytest.raises(type(error)):
        async with exchange:
            pass
    return exchange.response


async def test_api_error_is_the_response() -> None:
    response = await ask(InvalidRequestError("It is too long.", param="input"))

    assert response.error() == (400, "invalid_value", "input")
    assert response.message() == "It is too long."


async def test_headers_of_the_error_are_sent() -> None:
    response = await ask(OverloadedError("Full."))

    assert response.error() == (503, "server_is_overloaded", None)
    assert response.headers["retry-after"] == "1"


async def test_other_error_is_a_plain_500() -> None:
    response = await ask(RuntimeError("password in /etc/secret"))

    assert response.error() == (500, "internal_error", None)
    assert response.message() == "The server had an error while processing the request."
    assert b"secret" not in response.body


async def test_other_error_is_logged_with_the_request_id(
    caplog: pytest.LogCaptureFixture,
) -> None:
    response = await ask(RuntimeError("deep inside"))

    assert response.headers["x-request-id"] in caplog.text
    assert "deep inside" in caplog.text


async def test_api_error_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "api")

    await ask(InvalidRequestError("It is too long."))

    assert caplog.records == []


@pytest.mark.parametrize("error", [RuntimeError("late"), InvalidRequestError("late")])
async def test_error_after_the_start_aborts_the_connection(error: Exception) -> None:
    response = await ask_late(error)

    assert len(response.messages) == 1


async def test_disconnect_is_not_an_error(caplog: pytest.LogCaptureFixture) -> None:
    response = await ask(ClientDisconnect())

    assert response.messages == []
    assert caplog.records == []


async def test_response_passes_unchanged() -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, "fine")

    response = await request(RequestIdMiddleware(ErrorMiddleware(answer)), "GET", "/")

    assert (response.status, response.json()) == (200, "fine")


async def test_errors_of_other_scopes_pass() -> None:
    middleware = ErrorMiddleware(Failing(RuntimeError("at start-up")))

    with pytest.raises(RuntimeError, match="at start-up"):
        await middleware({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
