"""Authentication by bearer keys: every path is private unless it is listed as public."""

import math
import re
import time
from collections.abc import Sequence
from typing import cast

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from api.access.failed_keys import find_client_address
from api.access.key_ring import Keys
from api.errors import (
    InsufficientPermissionsError,
    InvalidApiKeyError,
    KeysUnknownError,
    TooManyFailedKeysError,
)
from api.ports.tenancy import Key, Scope

_SCOPE_KEY = "triptych.key"

ANONYMOUS = Key("anonymous", "anonymous", "default", may_log_prompts=True)
"""The key of all requests when authentication is off."""


class AuthMiddleware:
    """Middleware: passes requests that have a valid key or a public path."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys | None,
        public_paths: frozenset[str],
        public_patterns: Sequence[re.Pattern[str]] = (),
    ) -> None:
        """Wrap an ASGI application.

        Args:
            app: the application to protect.
            keys: None turns authentication off.
            public_paths: exact paths that need no key.
            public_patterns: each matches whole paths that need no key.
        """
        self._app = app
        self._keys = keys
        self._public_paths = public_paths
        self._public_patterns = public_patterns

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Check the key and store it in the scope.

        Raises:
            InvalidApiKeyError: the key is missing, unknown, expired or disabled.
            TooManyFailedKeysError: the same, after too many others.
            KeysUnknownError: the key is unknown, and the keys are not loaded yet.
        """
        if scope["type"] == "http" and not self._is_public(scope["path"]):
            scope[_SCOPE_KEY] = ANONYMOUS if self._keys is None else _check(scope, self._keys)
        await self._app(scope, receive, send)

    def _is_public(self, path: str) -> bool:
        return path in self._public_paths or any(
            pattern.fullmatch(path) for pattern in self._public_patterns
        )


def find_key(scope: AsgiScope, keys: Keys | None) -> Key | None:
    """Return the key of a request for a public path; None if it has none.

    Raises:
        InvalidApiKeyError: the key is unknown, expired or disabled.
        TooManyFailedKeysError: the same, after too many others.
        KeysUnknownError: the key is unknown, and the keys are not loaded yet.
    """
    if keys is None:
        return ANONYMOUS
    return _check(scope, keys) if "authorization" in Headers(scope=scope) else None


def _check(scope: AsgiScope, keys: Keys) -> Key:
    try:
        secret = _read_secret(scope)
    except InvalidApiKeyError:
        _report(keys)
        raise
    key = None if secret is None else keys.current.find(secret, time.time())
    if key is not None:
        return key
    if secret is not None and not keys.is_known:
        raise KeysUnknownError("The API keys are not known yet; try again shortly.")
    _report(keys)
    raise _to_failure(keys.failed_keys.count(find_client_address(scope)))


def _read_secret(scope: AsgiScope) -> str | None:
    """Return what the request offers as its key; None if it offers it in a wrong way."""
    authorizations = Headers(scope=scope).getlist("authorization")
    if not any(authorizations):
        raise InvalidApiKeyError(
            "No API key was given; send it in the header 'Authorization: Bearer YOUR_KEY'."
        )
    scheme, _, secret = authorizations[0].partition(" ")
    # A proxy in front of the service may have checked the other of two headers.
    return secret if len(authorizations) == 1 and scheme.lower() == "bearer" else None


def _report(keys: Keys) -> None:
    if keys.on_failure is not None:
        keys.on_failure()


def _to_failure(wait_s: float | None) -> InvalidApiKeyError | TooManyFailedKeysError:
    if wait_s is None:
        return InvalidApiKeyError("The API key is not valid.")
    error = TooManyFailedKeysError(
        "The API key is not valid, like too many before it; "
        f"other keys that are not valid get this answer for {math.ceil(wait_s)}s."
    )
    error.retry_after_ms = math.ceil(wait_s * 1000)
    return error


def get_key(scope: AsgiScope) -> Key:
    """Return the key of a request."""
    return cast(Key, scope[_SCOPE_KEY])


def get_key_for(scope: AsgiScope, wanted: Scope) -> Key:
    """Return the key of a request that needs a scope.

    Raises:
        InsufficientPermissionsError: the key lacks the scope.
    """
    key = get_key(scope)
    if wanted not in key.scopes:
        raise InsufficientPermissionsError(f"This API key lacks the scope '{wanted}'.")
    return key
