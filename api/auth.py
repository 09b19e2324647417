"""Bearer keys: everything is private unless its exact path is listed as public."""

import hashlib
import hmac
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import InvalidApiKey

_MAX_KEY_CHARS = 256


class ApiKeys:
    """The keys that open the service, kept as digests only."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Digest the keys.

        Raises:
            ValueError: there is none, or one that no client could offer.
        """
        keys = list(keys)
        if not keys:
            raise ValueError("at least one API key is needed")
        if not all(key and _is_well_formed(key) for key in keys):
            raise ValueError(f"an API key is 1 to {_MAX_KEY_CHARS} ASCII characters")
        self._digests = [_digest(key) for key in keys]

    def __repr__(self) -> str:
        """Show how many there are, and nothing of what they are."""
        return f"ApiKeys({len(self._digests)})"

    def accept(self, key: str) -> bool:
        """Whether this is one of the keys; takes the same time whichever it is, or if none."""
        offered = _digest(key)
        matches = [hmac.compare_digest(offered, digest) for digest in self._digests]
        return any(matches)


def _is_well_formed(key: str) -> bool:
    return key.isascii() and len(key) <= _MAX_KEY_CHARS


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class Auth:
    """Middleware: let a request pass when it is public, or carries a key that is accepted."""

    def __init__(self, app: ASGIApp, keys: ApiKeys | None, public_paths: frozenset[str]) -> None:
        """Wrap an ASGI application; `keys` of None turns authentication off."""
        self._app = app
        self._keys = keys
        self._public_paths = public_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the key.

        Raises:
            InvalidApiKey: there is none, or it is not accepted.
        """
        if scope["type"] == "http" and self._keys and scope["path"] not in self._public_paths:
            _check(Headers(scope=scope).get("authorization"), self._keys)
        await self._app(scope, receive, send)


def _check(authorization: str | None, keys: ApiKeys) -> None:
    if not authorization:
        raise InvalidApiKey(
            "No API key was given; send it in the header 'Authorization: Bearer YOUR_KEY'."
        )
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or not _is_well_formed(key) or not keys.accept(key):
        raise InvalidApiKey("The API key is not valid.")
