"""`GET /health`: whether this process is alive. `GET /ready`: whether models are ready.

`/ready` is about all models, `/ready/{model}` and `/ready?model=…` (also several) about those.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from api.access.key_ring import Keys
from api.errors import InvalidApiKeyError, KeysUnknownError
from api.http.response import send_json
from api.middleware.auth import find_key
from api.ports.tenancy import Key
from api.registry import ModelEntry, Models, model_not_found

READY_PATH = re.compile(r"/ready/(?!(?:.*/)?\.\.?(?:/|$)).+")
"""The paths of single models; those that lead elsewhere are none."""


class Health:
    """Always answers 200, without any check."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await send_json(send, {"status": "ok"})


class Ready:
    """Answers 200 when keys are loaded and the models take requests, else 503 with reasons.

    Names and reasons are for keys only; others get the number of models in each state.
    """

    def __init__(self, models: Models, keys: Keys | None) -> None:
        """Report on `models`, and on `keys` unless authentication is off."""
        self._models = models
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            InvalidApiKeyError: the key is not valid, or there is none, but the name of a model.
            TooManyFailedKeysError: the key is not valid, like too many before it.
            ModelNotFoundError: the request names a model that the key may not use.
        """
        key, names = self._find_key(scope), _to_names(scope)
        if names and key is None and self._models.is_known:
            raise InvalidApiKeyError("Whether a single model is ready is told to API keys only.")
        entries = self._find(names, key)
        status = self._to_status(entries)
        body: dict[str, Any] = {"status": status, "counts": Counter(e.state for e in entries)}
        if key is not None:
            body["models"] = {
                entry.id: {"kind": entry.kind, "state": entry.state, "message": entry.message}
                for entry in entries
            }
        if self._keys is not None:
            body["keys"] = {"state": _to_state(self._keys)}
            if key is not None:
                body["keys"]["message"] = self._keys.note
        await send_json(send, body, 200 if status == "ready" else 503)

    def _find_key(self, scope: Scope) -> Key | None:
        try:
            return find_key(scope, self._keys)
        except KeysUnknownError:  # this is what the answer is about
            return None

    def _find(self, names: Sequence[str], key: Key | None) -> list[ModelEntry]:
        """Find the named models, or all; none before the models have been loaded once."""
        registry = self._models.current if key is None else self._models.for_key(key)
        if not names or not self._models.is_known:
            return list(registry)
        found = {name: registry.find(name) for name in names}
        for name, entry in found.items():
            if entry is None:
                raise model_not_found(name)
        return [entry for entry in found.values() if entry is not None]

    def _to_status(self, entries: Sequence[ModelEntry]) -> str:
        states = {entry.state for entry in entries}
        is_known = self._models.is_known and (self._keys is None or self._keys.is_known)
        if not is_known or "starting" in states:
            return "starting"
        return "failed" if "failed" in states else "ready"


def _to_names(scope: Scope) -> list[str]:
    if name := scope["path_params"].get("model_id"):
        return [name]
    return Request(scope).query_params.getlist("model")


def _to_state(keys: Keys) -> str:
    """Return the state of the keys; stale keys still work, so the service stays ready."""
    if not keys.is_known:
        return "unknown"
    return "known" if keys.note is None else "stale"
