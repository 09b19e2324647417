"""Bearer keys: everything is private unless its exact path is listed as public."""

import re
import time
from typing import cast

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from api.access.key_ring import Keys
from api.errors import InsufficientPermissionsError, InvalidApiKeyError, KeysUnknownError
from api.ports.tenancy import Key, Scope

_SCOPE_KEY = "triptych.key"

ANONYMOUS = Key("anonymous", "anonymous", "default", may_log_prompts=True)
"""Who asks where authentication is off."""


class AuthMiddleware:
    """Middleware: let a request pass when it is public, or carries a key that opens."""

    def __init__(
        self,
        app: ASGIApp,
        keys: Keys | None,
        public_paths: frozenset[str],
        public_pattern: re.Pattern[str] | None = None,
    ) -> None:
        """Wrap an ASGI application.

        Args:
            app: what is to be protected.
            keys: None turns authentication off.
            public_paths: exact ones.
            public_pattern: of whole paths that are secrets themselves.
        """
        self._app = app
        self._keys = keys
        self._public_paths = public_paths
        self._public_pattern = public_pattern

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Check the key, and leave it in the scope.

        Raises:
            InvalidApiKeyError: there is none, or it opens nothing.
            KeysUnknownError: nobody can tell yet.
        """
        if scope["type"] == "http" and not self._is_public(scope["path"]):
            scope[_SCOPE_KEY] = ANONYMOUS if self._keys is None else _check(scope, self._keys)
        await self._app(scope, receive, send)

    def _is_public(self, path: str) -> bool:
        pattern = self._public_pattern
        is_secret = pattern is not None and pattern.fullmatch(path) is not None
        return path in self._public_paths or is_secret


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
    # Of two headers a proxy in front may have checked the other one.
    if len(authorizations) > 1 or scheme.lower() != "bearer":
        raise InvalidApiKeyError("The API key is not valid.")
    return secret


def get_key(scope: AsgiScope) -> Key:
    """The key that this request came with."""
    return cast(Key, scope[_SCOPE_KEY])


def get_key_for(scope: AsgiScope, wanted: Scope) -> Key:
    """The key that this request came with, if it has a scope.

    Raises:
        InsufficientPermissionsError: it has not.
    """
    key = get_key(scope)
    if wanted not in key.scopes:
        raise InsufficientPermissionsError(f"This API key lacks the scope '{wanted}'.")
    return key
