"""One HTTP exchange: reading a body within its limits, noticing a client that leaves, writing JSON.

Raw ASGI on purpose: Starlette's `Request` and `Response` cannot watch for a disconnect while the
answer is being computed, and that is what frees the engine.
"""

import asyncio

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from api.errors import BodyTimeoutError, PayloadTooLargeError, UnsupportedMediaTypeError
from api.settings import Limits

_CHARSETS = frozenset({"charset=utf-8", 'charset="utf-8"', "charset=utf8"})


async def read_json_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """Read the whole body of a request that must carry JSON.

    Raises:
        UnsupportedMediaTypeError: it is declared as something else, or compressed.
        PayloadTooLargeError: it is, or says it is, larger than `limits.max_body_bytes`.
        BodyTimeoutError: it did not arrive within `limits.body_timeout_s`.
        ClientDisconnect: the client left.
    """
    headers = Headers(scope=scope)
    check_media_type(headers, "application/json")
    check_size(_declared_bytes(headers), limits.max_body_bytes)
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            return await _read_body(receive, limits)
    except TimeoutError:  # nothing inside raises one of its own
        raise BodyTimeoutError(
            f"The request body did not arrive within {limits.body_timeout_s:g} seconds."
        ) from None


def check_media_type(headers: Headers, wanted: str) -> None:
    """Take bodies of one media type only, and as they are.

    Raises:
        UnsupportedMediaTypeError: it is declared as something else, not in UTF-8, or compressed.
    """
    media_type, *parameters = headers.get("content-type", "").lower().split(";")
    if media_type.strip() != wanted:
        raise UnsupportedMediaTypeError(f"The header 'content-type' must be '{wanted}'.")
    # Starlette decodes forms as they say, and with some of Python's codecs a field takes minutes.
    charsets = [each.strip() for each in parameters if each.strip().startswith("charset")]
    if not all(each in _CHARSETS for each in charsets):
        raise UnsupportedMediaTypeError("The request body must be in UTF-8.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaTypeError("Compressed request bodies are not supported.")


def _declared_bytes(headers: Headers) -> int:
    """What `content-length` says; 0 where it says nothing, for the body is counted anyway."""
    length = headers.get("content-length", "")
    # `int` takes more signs than a header may hold, and raises at thousands of digits.
    return int(length[:18]) if length.isascii() and length.isdigit() else 0


def check_size(size_bytes: int, most_bytes: int) -> None:
    """Bound what a body may hold.

    Raises:
        PayloadTooLargeError: it holds more.
    """
    if size_bytes > most_bytes:
        raise PayloadTooLargeError(
            f"The request body is larger than the limit of {most_bytes} bytes."
        )


async def _read_body(receive: Receive, limits: Limits) -> bytes:
    chunks = []
    size_bytes = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size_bytes += len(chunk)
        check_size(size_bytes, limits.max_body_bytes)
        chunks.append(chunk)
        more = message.get("more_body", False)
    return b"".join(chunks)
