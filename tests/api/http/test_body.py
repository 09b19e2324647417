import asyncio
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from api.errors import (
    BodyTimeoutError,
    DeadlineExceededError,
    EngineError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
)
from api.http.body import read_json_body
from api.http.lifetime import deadline, while_connected
from api.http.response import send_json
from api.settings import Limits
from tests.helpers.asgi import Exchange, Response, to_scope

JSON = {"content-type": "application/json"}
SMALL = Limits(max_body_bytes=1024)


class Reader:
    """An application that only reads its body."""

    def __init__(self, limits: Limits = SMALL) -> None:
        self.limits = limits
        self.body: bytes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.body = await read_json_body(scope, receive, self.limits)


async def read(*chunks: bytes, headers: dict[str, str] | None = None) -> bytes | None:
    reader = Reader()
    async with Exchange(reader, "POST", "/", headers=headers or JSON, chunks=chunks):
        pass
    return reader.body


async def never() -> Message:
    raise AssertionError("the body was read")


class RequestProgress:
    """A coroutine that waits, and takes its time to stop."""

    def __init__(self, error_on_stop: Exception | None = None) -> None:
        self.has_begun = asyncio.Event()
        self.has_stopped = False
        self._error = error_on_stop

    async def run(self) -> None:
        self.has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            self.has_stopped = True
            if self._error is not None:
                raise self._error


async def stay() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def leave() -> Message:
    return {"type": "http.disconnect"}


@pytest.mark.parametrize(
    "chunks", [[b"{}"], [b"{", b"}"], [b"", b"{", b"", b"}", b""], [b""], [b"x" * 1024]]
)
async def test_body_is_its_chunks_joined(chunks: list[bytes]) -> None:
    assert await read(*chunks) == b"".join(chunks)


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        " application/json ",
    ],
)
async def test_json_is_taken_however_it_is_declared(media_type: str) -> None:
    assert await read(b"{}", headers={"content-type": media_type}) == b"{}"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-other": "1"},
        {"content-type": ""},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=application/json"},
        {"content-type": "application/jsonl"},
        {"content-type": "text/plain; application/json"},
    ],
)
async def test_any_other_media_type_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="'content-type'"):
        await read_json_body(to_scope("POST", "/", headers), never, SMALL)


@pytest.mark.parametrize(
    "charset", ["charset=utf-16", "Charset = utf-8", "charset*=utf-8''utf-7", "a=b;charset=latin-1"]
)
async def test_any_other_charset_is_refused(charset: str) -> None:
    headers = {"content-type": f"application/json; {charset}"}

    with pytest.raises(UnsupportedMediaTypeError, match="UTF-8"):
        await read_json_body(to_scope("POST", "/", headers), never, SMALL)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "gzip, identity", "zstd"])
async def test_compressed_body_is_refused(encoding: str) -> None:
    headers = {**JSON, "content-encoding": encoding}

    with pytest.raises(UnsupportedMediaTypeError, match="Compressed"):
        await read_json_body(to_scope("POST", "/", headers), never, SMALL)


@pytest.mark.parametrize("encoding", ["identity", "Identity"])
async def test_identity_is_no_compression(encoding: str) -> None:
    assert await read(b"{}", headers={**JSON, "content-encoding": encoding}) == b"{}"


@pytest.mark.parametrize("length", ["1025", "8388608", "9" * 30, "9" * 5000])
async def test_body_declared_too_large_is_refused_unread(length: str) -> None:
    headers = {**JSON, "content-length": length}

    with pytest.raises(PayloadTooLargeError, match="1024 bytes"):
        await read_json_body(to_scope("POST", "/", headers), never, SMALL)


@pytest.mark.parametrize("length", ["1024", "0", "", "-1", "many", "²", "1e9"])
async def test_any_other_declared_length_is_not_believed(length: str) -> None:
    assert await read(b"{}", headers={**JSON, "content-length": length}) == b"{}"


async def test_body_is_counted_whatever_it_declares() -> None:
    with pytest.raises(PayloadTooLargeError, match="1024 bytes"):
        await read(b"x" * 1025, headers={**JSON, "content-length": "2"})


async def test_too_large_body_is_refused_before_its_end() -> None:
    exchange = Exchange(Reader(), "POST", "/", headers=JSON, chunks=None)
    exchange.give(b"x" * 600, more=True)
    exchange.give(b"x" * 600, more=True)

    with pytest.raises(PayloadTooLargeError):
        async with exchange:
            pass


async def test_slow_body_is_refused() -> None:
    reader = Reader(Limits(body_timeout_s=0.01))
    exchange = Exchange(reader, "POST", "/", headers=JSON, chunks=None)
    exchange.give(b"{", more=True)

    with pytest.raises(BodyTimeoutError, match=r"within 0\.01 seconds"):
        async with exchange:
            pass


async def test_client_that_leaves_before_the_end_of_its_body_is_gone() -> None:
    exchange = Exchange(Reader(), "POST", "/", headers=JSON, chunks=None)
    exchange.give(b"{", more=True)
    exchange.disconnect()

    with pytest.raises(ClientDisconnect):
        async with exchange:
            pass


async def test_result_of_the_work_is_passed_on() -> None:
    async def work() -> int:
        return 7

    assert await while_connected(stay, work()) == 7


async def test_exception_of_the_work_is_passed_on() -> None:
    async def work() -> None:
        raise EngineError("It broke.")

    with pytest.raises(EngineError):
        await while_connected(stay, work())


async def test_result_wins_over_a_client_that_leaves_at_the_same_time() -> None:
    async def work() -> int:
        return 7

    assert await while_connected(leave, work()) == 7


async def test_work_has_stopped_once_the_client_has_left() -> None:
    work = RequestProgress()

    with pytest.raises(ClientDisconnect):
        await while_connected(leave, work.run())

    assert work.has_stopped


async def test_messages_that_are_no_disconnect_do_not_stop_the_work() -> None:
    messages: list[Message] = [{"type": "http.request"}, {"type": "http.request"}]
    work = RequestProgress()

    async def receive() -> Message:
        return messages.pop() if messages else await leave()

    with pytest.raises(ClientDisconnect):
        await while_connected(receive, work.run())

    assert messages == []


async def test_work_has_stopped_once_the_caller_is_cancelled() -> None:
    work = RequestProgress()
    calling = asyncio.create_task(while_connected(stay, work.run()))
    await work.has_begun.wait()

    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling

    assert work.has_stopped


async def test_error_while_stopping_is_swallowed(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is left to be told, and asyncio must not complain that nobody was."""
    work = RequestProgress(error_on_stop=EngineError("It broke."))

    with pytest.raises(ClientDisconnect):
        await while_connected(leave, work.run())

    assert work.has_stopped
    assert caplog.records == []


async def test_watch_for_the_client_ends_with_the_work() -> None:
    watched = asyncio.Event()

    async def receive() -> Message:
        try:
            return await stay()
        finally:
            watched.set()

    async def work() -> None:
        await asyncio.sleep(0)

    await while_connected(receive, work())

    assert watched.is_set()


async def test_deadline_lets_quick_work_pass() -> None:
    async with deadline(Limits(request_timeout_s=5)):
        await asyncio.sleep(0)


async def test_deadline_stops_slow_work() -> None:
    with pytest.raises(DeadlineExceededError, match=r"within 0\.01 seconds"):
        async with deadline(Limits(request_timeout_s=0.01)):
            await asyncio.sleep(5)


async def test_deadline_passes_errors_of_the_work_on() -> None:
    with pytest.raises(EngineError):
        async with deadline(Limits()):
            raise EngineError("It broke.")


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


async def test_json_response_has_the_status_and_headers_asked_for() -> None:
    response = await send_to_response({}, 503, {"retry-after": "1"})

    assert (response.status, response.headers["retry-after"]) == (503, "1")


async def test_deadline_leaves_timeouts_of_others_alone() -> None:
    with pytest.raises(TimeoutError, match="of a socket"):
        async with deadline(Limits()):
            raise TimeoutError("of a socket")
