"""Builds the context of a request, which is sent to the model with the request."""

import uuid
from collections.abc import Callable
from typing import Protocol

from api.ports.tenancy import Key, RequestContext

_MAX_USER_CHARS = 256

CacheSalt = Callable[[str], str]
"""Tenant → salt that keeps its cached prompt prefixes apart from other tenants'."""


class ModelRequest(Protocol):
    """The parameters that the requests of all model endpoints share."""

    @property
    def model(self) -> str:
        """The model as the client named it."""

    @property
    def user(self) -> str | None:
        """The client's name for its end user."""

    @property
    def stream(self) -> bool:
        """Whether the answer is to be streamed."""


def build_request_context(
    key: Key, request: ModelRequest, *, endpoint: str, cache_salt: CacheSalt | None
) -> RequestContext:
    """Build the context of one request.

    Args:
        key: the key that sends the request.
        request: the request as parsed.
        endpoint: the path without `/v1/`.
        cache_salt: None lets all tenants share cached prefixes.
    """
    return RequestContext(
        key_id=key.id,
        tenant=key.tenant,
        priority=key.priority,
        has_token_limits=key.limits.has_tokens,
        cache_salt=cache_salt(key.tenant) if cache_salt else None,
        user=_to_user(request.user),
        endpoint=endpoint,
        model=request.model,
        is_streamed=request.stream,
        usage_id=uuid.uuid4().hex,
    )


def _to_user(user: str | None) -> str | None:
    # The usage database stores it, and PostgreSQL's texts cannot contain NUL.
    return (user or "")[:_MAX_USER_CHARS].replace("\0", "") or None
