"""Receives request bodies within limits of size, time and media type.

Raw ASGI, because Starlette's `Request` has no limits, and cannot notice a disconnect while the
answer is being computed.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from api.errors import BodyTimeoutError, PayloadTooLargeError, UnsupportedMediaTypeError
from api.settings import Limits

_CHARSETS = frozenset({"charset=utf-8", 'charset="utf-8"', "charset=utf8"})


async def read_json_body(
    scope: Scope, receive: Receive, limits: Limits, *, has_images: bool = False
) -> bytes:
    """Read the whole body of a request that must be JSON.

    Args:
        scope: of the request.
        receive: returns the parts of the body.
        limits: of its size and time.
        has_images: it may contain images, so it may be larger.

    Raises:
        UnsupportedMediaTypeError: the body has another media type or charset, or is compressed.
        PayloadTooLargeError: the body is, or claims to be, over `limits.max_body_bytes` or
            `limits.max_text_body_bytes`.
        BodyTimeoutError: the body did not arrive within `limits.body_timeout_s`.
        ClientDisconnect: the client disconnected.
    """
    headers = Headers(scope=scope)
    check_media_type(headers, "application/json")
    max_bytes = limits.max_body_bytes
    if not has_images:
        max_bytes = min(max_bytes, limits.max_text_body_bytes)
    _check_size(_read_content_length(headers), max_bytes)
    async with body_deadline(limits):
        return b"".join([chunk async for chunk in receive_chunks(receive, max_bytes)])


def check_media_type(headers: Headers, media_type: str) -> None:
    """Check that a body has a media type, is in UTF-8 and is not compressed.

    Raises:
        UnsupportedMediaTypeError: it does not, or is not.
    """
    declared, *parameters = headers.get("content-type", "").lower().split(";")
    if declared.strip() != media_type:
        raise UnsupportedMediaTypeError(f"The header 'content-type' must be '{media_type}'.")
    # Starlette decodes form fields with any codec of Python's, and some take minutes per field.
    charsets = [each.strip() for each in parameters if each.strip().startswith("charset")]
    if not all(each in _CHARSETS for each in charsets):
        raise UnsupportedMediaTypeError("The request body must be in UTF-8.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaTypeError("Compressed request bodies are not supported.")


@asynccontextmanager
async def body_deadline(limits: Limits) -> AsyncIterator[None]:
    """Limit the time of the block to `limits.body_timeout_s`.

    Raises:
        BodyTimeoutError: the block took longer and was cancelled.
    """
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            yield
    except TimeoutError:  # always this timer's: receiving a body raises no other
        raise BodyTimeoutError(
            f"The request body did not arrive within {limits.body_timeout_s:g} seconds."
        ) from None


async def receive_chunks(receive: Receive, max_bytes: int) -> AsyncGenerator[bytes]:
    """Yield the chunks of a body as they arrive.

    Raises:
        PayloadTooLargeError: the chunks together exceed `max_bytes`.
        ClientDisconnect: the client disconnected.
    """
    size_bytes = 0
    has_more = True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size_bytes += len(chunk)
        _check_size(size_bytes, max_bytes)
        yield chunk
        has_more = message.get("more_body", False)


def _read_content_length(headers: Headers) -> int:
    """Read the header `content-length`, in bytes; 0 if it is absent or not a number."""
    length = headers.get("content-length", "")
    # `int` accepts signs that the header must not have, and raises at thousands of digits.
    return int(length[:18]) if length.isascii() and length.isdigit() else 0


def _check_size(size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise PayloadTooLargeError(
            f"The request body is larger than the limit of {max_bytes} bytes."
        )
