"""Reads multipart forms within limits; files stay in memory.

What a client says about a file besides its field (name, type, further headers) is ignored.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Receive, Scope

from api.errors import MAX_QUOTED_CHARS, InvalidRequestError, MalformedBodyError, quote
from api.http.body import body_deadline, check_media_type, receive_chunks
from api.settings import Limits

_MAX_FIELDS = 64
_MAX_FILES = 16
_MAX_FIELD_BYTES = 256 * 1024
_SLICE_BYTES = 64 * 1024
"""Parsed at a time; other tasks run between two slices."""


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
    """Read the whole body of a request that must be a multipart form.

    Raises:
        UnsupportedMediaTypeError: the body has another media type or charset, or is compressed.
        PayloadTooLargeError: the body is over `limits.max_upload_bytes`.
        BodyTimeoutError: the body did not arrive within `limits.body_timeout_s`.
        MalformedBodyError: the body is not a form, or has too many parts.
        InvalidRequestError: a field is repeated.
        ClientDisconnect: the client disconnected.
    """
    headers = Headers(scope=scope)
    check_media_type(headers, "multipart/form-data")
    slices = _receive_slices(receive, limits)
    parser = MultiPartParser(
        headers,
        slices,
        max_files=_MAX_FILES,
        max_fields=_MAX_FIELDS,
        max_part_size=_MAX_FIELD_BYTES,
    )
    # The parser writes larger files to the disk; no file of an allowed form is larger.
    parser.spool_max_size = limits.max_upload_bytes + 1
    try:
        async with body_deadline(limits), aclosing(slices):
            return await _parse(parser)
    except MultiPartException:
        raise MalformedBodyError(
            f"The request body is not a multipart form of at most {_MAX_FIELDS} fields and "
            f"{_MAX_FILES} files."
        ) from None


async def _receive_slices(receive: Receive, limits: Limits) -> AsyncGenerator[bytes, None]:
    """Yield the body in slices, and let other tasks run after each slice is parsed."""
    async with aclosing(receive_chunks(receive, limits.max_upload_bytes)) as chunks:
        async for chunk in chunks:
            for begin in range(0, len(chunk), _SLICE_BYTES):
                yield chunk[begin : begin + _SLICE_BYTES]
                await asyncio.sleep(0)


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
                    f"The field '{quote(name)}' is there twice.", param=name[:MAX_QUOTED_CHARS]
                )
            else:
                fields[name] = value
        return Form(fields, tuple(files))
    finally:
        await form.close()
