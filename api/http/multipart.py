"""Multipart forms within limits: counted and timed while they arrive, never stored elsewhere.

What a client says of its files (name, type, further headers) is not looked at.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from api.errors import BodyTimeoutError, InvalidRequestError, MalformedBodyError
from api.http.body import check_media_type, check_size
from api.settings import Limits

_MAX_FIELDS = 64
_MAX_FILES = 16
_MAX_FIELD_BYTES = 256 * 1024
_SLICE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Upload:
    """One file of a form."""

    field: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Form:
    """A form as it was sent."""

    fields: dict[str, str]
    files: tuple[Upload, ...]


async def read_form(scope: Scope, receive: Receive, limits: Limits) -> Form:
    """Read the whole body of a request that must carry a form.

    Raises:
        UnsupportedMediaTypeError: it is declared as something else, or compressed.
        PayloadTooLargeError: it is larger than `limits.max_upload_bytes`.
        BodyTimeoutError: it did not arrive within `limits.body_timeout_s`.
        MalformedBodyError: it is not a form, or has too many parts.
        InvalidRequestError: a field is there twice.
        ClientDisconnect: the client left.
    """
    headers = Headers(scope=scope)
    check_media_type(headers, "multipart/form-data")
    # The parser writes files of more than this to the disk; ours are counted, and stay in memory.
    parser = MultiPartParser(
        headers,
        _arriving(receive, limits),
        max_files=_MAX_FILES,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    parser.spool_max_size = limits.max_upload_bytes + 1
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            return await _parse(parser)
    except TimeoutError:  # nothing inside raises one of its own
        raise BodyTimeoutError(
            f"The request body did not arrive within {limits.body_timeout_s:g} seconds."
        ) from None
    except MultiPartException:
        raise MalformedBodyError(
            f"The request body is not a multipart form of at most {_MAX_FIELDS} fields and "
            f"{_MAX_FILES} files."
        ) from None


async def _arriving(receive: Receive, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body as it comes, in pieces that do not hold up others for long."""
    size_bytes = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body = message.get("body", b"")
        size_bytes += len(body)
        check_size(size_bytes, limits.max_upload_bytes)
        for begin in range(0, len(body), _SLICE_BYTES):
            yield body[begin : begin + _SLICE_BYTES]
            await asyncio.sleep(0)
        more = message.get("more_body", False)


async def _parse(parser: MultiPartParser) -> Form:
    form = await parser.parse()
    try:
        fields: dict[str, str] = {}
        files = []
        for name, value in form.multi_items():
            if not isinstance(value, str):
                files.append(Upload(name, await value.read()))
            elif name in fields:
                raise InvalidRequestError(
                    f"The field '{name[:64]}' is there twice.", param=name[:64]
                )
            else:
                fields[name] = value
        return Form(fields, tuple(files))
    finally:
        await form.close()
