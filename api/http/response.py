"""Sends whole JSON responses as raw ASGI messages."""

from typing import Any

import msgspec
from starlette.types import Send


async def send_json(
    send: Send, value: Any, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    """Encode a value as JSON and send it as a whole response."""
    await send_bytes(send, msgspec.json.encode(value), status, headers)


async def send_bytes(
    send: Send, body: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> None:
    """Send a whole response whose body is encoded JSON."""
    fields = {"content-type": "application/json", "content-length": str(len(body))}
    fields.update(headers or {})
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
