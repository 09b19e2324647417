import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from api.errors import (
    BodyTimeoutError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
)
from api.http.body import read_json_body
from api.settings import Limits
from tests.helpers.asgi import Exchange, to_scope

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
async def test_json_is_accepted_with_every_valid_declaration(media_type: str) -> None:
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
async def test_identity_encoding_is_accepted(encoding: str) -> None:
    assert await read(b"{}", headers={**JSON, "content-encoding": encoding}) == b"{}"


@pytest.mark.parametrize("length", ["1025", "8388608", "9" * 30, "9" * 5000])
async def test_body_declared_too_large_is_refused_unread(length: str) -> None:
    headers = {**JSON, "content-length": length}

    with pytest.raises(PayloadTooLargeError, match="1024 bytes"):
        await read_json_body(to_scope("POST", "/", headers), never, SMALL)


@pytest.mark.parametrize("length", ["1024", "0", "", "-1", "many", "²", "1e9"])
async def test_invalid_content_length_is_ignored(length: str) -> None:
    assert await read(b"{}", headers={**JSON, "content-length": length}) == b"{}"


async def test_body_over_the_limit_is_refused_whatever_it_declares() -> None:
    with pytest.raises(PayloadTooLargeError, match="1024 bytes"):
        await read(b"x" * 1025, headers={**JSON, "content-length": "2"})


async def test_too_large_body_is_refused_before_its_end() -> None:
    exchange = Exchange(Reader(), "POST", "/", headers=JSON, chunks=None)
    exchange.send_chunk(b"x" * 600, more=True)
    exchange.send_chunk(b"x" * 600, more=True)

    with pytest.raises(PayloadTooLargeError):
        async with exchange:
            pass


async def test_slow_body_is_refused() -> None:
    reader = Reader(Limits(body_timeout_s=0.01))
    exchange = Exchange(reader, "POST", "/", headers=JSON, chunks=None)
    exchange.send_chunk(b"{", more=True)

    with pytest.raises(BodyTimeoutError, match=r"within 0\.01 seconds"):
        async with exchange:
            pass


async def test_disconnect_before_the_end_of_the_body_raises() -> None:
    exchange = Exchange(Reader(), "POST", "/", headers=JSON, chunks=None)
    exchange.send_chunk(b"{", more=True)
    exchange.disconnect()

    with pytest.raises(ClientDisconnect):
        async with exchange:
            pass
