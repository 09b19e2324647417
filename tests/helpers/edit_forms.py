"""Multipart forms for `POST /v1/images/edits`, and a function that sends them."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.helpers.asgi import Exchange, Response
from tests.helpers.fakes import PAINTER, SECRET, FakePainter, build_app

URL = "/v1/images/edits"
FIELDS = {"model": PAINTER, "prompt": "a dot"}
PNG = b"\x89PNG\r\n\x1a\n and more"
JPEG = b"\xff\xd8\xff and more"
BOUNDARY = "b0undary"
MEDIA_TYPE = f"multipart/form-data; boundary={BOUNDARY}"

File = tuple[str, bytes]
"""Name of the field, and the data."""


def to_part(name: str, data: bytes, filename: str | None = None, headers: bytes = b"") -> bytes:
    """Encode one part of a form; `headers` are further lines of its head."""
    disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
    head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n".encode()
    return head + headers + b"\r\n" + data + b"\r\n"


def to_body(fields: Mapping[str, str], files: Sequence[File]) -> bytes:
    """Encode a form."""
    parts = [to_part(name, value.encode()) for name, value in fields.items()]
    parts += [to_part(name, data, "a.png") for name, data in files]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


async def send_edit(
    body: bytes,
    painter: FakePainter | None = None,
    content_type: str = MEDIA_TYPE,
    **services: Any,
) -> Response:
    """Send a body to an application with the given services."""
    app = build_app(painter=painter, **services)
    headers = {"content-type": content_type, "authorization": f"Bearer {SECRET}"}
    async with Exchange(app, "POST", URL, headers=headers, chunks=[body]) as exchange:
        return await exchange.end()


async def edit(
    painter: FakePainter | None = None, files: Sequence[File] = (("image", PNG),), **fields: str
) -> Response:
    """Send a valid form with the given files and fields."""
    return await send_edit(to_body({**FIELDS, **fields}, files), painter)
