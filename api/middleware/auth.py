"""Authentication by bearer keys: every path is private unless it is listed as public."""

import re
import time
from collections.abc import Sequence
from typing import cast

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from api.access.key_ring import Keys
from api.errors import InsufficientPermissionsError, InvalidApiKeyError, KeysUnknownError
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
            KeysUnknownError: the key is unknown, and the keys are not loaded yet.
        """
        if scope["type"] == "http" and not self._is_public(scope["path"]):
            scope[_SCOPE_KEY] = ANONYMOUS if self._keys is None else _check(scope, self._keys)
        await self._app(scope, receive, send)

    def _is_public(self, path: str) -> bool:
        return path in self._public_paths or any(
            pattern.fullmatch(path) for pattern in self._public_patterns
        )


def _check(scope: AsgiScope, keys: Keys) -> Key:
    try:
        key = keys.current.find(_read_secret(scope), time.time())
        if key is None and keys.is_known:
            raise InvalidApiKeyError("The API key is not valid.")
    except InvalidApiKeyError:
        if keys.on_failure is not None:
            keys.on_failure()
        raise
    if key is None:
        raise KeysUnknownError("The API keys are not known yet; try again shortly.")
    return key


def _read_secret(scope: AsgiScope) -> str:
    authorizations = Headers(scope=scope).getlist("authorization")
    if not any(authorizations):
        raise InvalidApiKeyError(
            "No API key was given; send it in the header 'Authorization: Bearer YOUR_KEY'."
        )
    scheme, _, secret = authorizations[0].partition(" ")
    # A proxy in front of the service may have checked the other of two headers.
    if len(authorizations) > 1 or scheme.lower() != "bearer":
        raise InvalidApiKeyError("The API key is not valid.")
    return secret


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
