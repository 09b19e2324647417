"""Where a request comes from, in the words that travel with it to the model."""

from collections.abc import Callable
from typing import Protocol

from api.ports.tenancy import Key, RequestContext

_MAX_USER_CHARS = 256

CacheSalt = Callable[[str], str]
"""Makes of a tenant what keeps its cached prefixes apart from those of all others."""


class HasModelAndUser(Protocol):
    """A request of any endpoint."""

    @property
    def model(self) -> str:
        """As the client named it."""

    @property
    def user(self) -> str | None:
        """What the client says of who uses it."""


def build_request_context(
    key: Key,
    request: HasModelAndUser,
    *,
    endpoint: str,
    cache_salt: CacheSalt | None,
    is_streamed: bool = False,
) -> RequestContext:
    """The origin of one request to `endpoint`, which is its path without `/v1/`."""
    return RequestContext(
        key_id=key.id,
        tenant=key.tenant,
        priority=key.priority,
        has_token_limits=key.limits.has_tokens,
        cache_salt=cache_salt(key.tenant) if cache_salt else None,
        user=_to_user(request.user),
        endpoint=endpoint,
        model=request.model,
        is_streamed=is_streamed,
    )


def _to_user(user: str | None) -> str | None:
    # It ends up in a database, and PostgreSQL's texts hold no NUL.
    return (user or "")[:_MAX_USER_CHARS].replace("\0", "") or None
