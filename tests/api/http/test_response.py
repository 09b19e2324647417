from typing import Any

from starlette.types import Message

from api.http.response import send_json
from tests.helpers.asgi import Response


async def send_to_response(value: Any, *arguments: Any) -> Response:
    response = Response()

    async def send(message: Message) -> None:
        response.messages.append(message)

    await send_json(send, value, *arguments)
    return response


async def test_json_response_is_complete() -> None:
    response = await send_to_response({"text": "é\u2028😀"})

    assert (response.status, response.json()) == (200, {"text": "é\u2028😀"})
    assert response.is_ended


async def test_json_response_has_the_given_status_and_headers() -> None:
    response = await send_to_response({}, 503, {"retry-after": "1"})

    assert (response.status, response.headers["retry-after"]) == (503, "1")
