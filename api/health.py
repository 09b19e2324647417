"""`GET /health`: whether this process is alive. `GET /ready`: whether every model is ready."""

from typing import Any

from starlette.types import Receive, Scope, Send

from api.access.key_ring import Keys
from api.http.response import send_json
from api.registry import Models


class Health:
    """Always answers 200, without any check."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await send_json(send, {"status": "ok"})


class Ready:
    """Answers 200 when keys are loaded and every model takes requests, else 503 with reasons."""

    def __init__(self, models: Models, keys: Keys | None) -> None:
        """Report on `models`, and on `keys` unless authentication is off."""
        self._models = models
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        states = {
            entry.id: {"kind": entry.kind, "state": entry.state, "message": entry.message}
            for entry in self._models.current
        }
        status = self._status()
        body: dict[str, Any] = {"status": status, "models": states}
        if self._keys is not None:
            body["keys"] = {"state": _to_state(self._keys), "message": self._keys.note}
        await send_json(send, body, 200 if status == "ready" else 503)

    def _status(self) -> str:
        states = {entry.state for entry in self._models.current}
        is_known = self._models.is_known and (self._keys is None or self._keys.is_known)
        if not is_known or "starting" in states:
            return "starting"
        return "failed" if "failed" in states else "ready"


def _to_state(keys: Keys) -> str:
    """Return the state of the keys; stale keys still work, so the service stays ready."""
    if not keys.is_known:
        return "unknown"
    return "known" if keys.note is None else "stale"
