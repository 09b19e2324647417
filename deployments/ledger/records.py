"""What the ledger stores: usage records and keys."""

import uuid
from dataclasses import dataclass, field

from api.ports.tenancy import Key, ModelKind

DAY_S = 86_400
"""Quotas and sums are of UTC days, which all have as many seconds in Unix time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """The usage of one request, written once by the replica that served it.

    Records are told apart by `id`, because clients may choose the `request_id`. Times are in
    milliseconds; None if the request did not get so far.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    time_s: float
    """Unix time at which the request ended."""
    request_id: str
    key_id: str
    tenant: str
    user: str | None = None
    endpoint: str
    model: str
    """The configured id."""
    adapter: str | None = None
    kind: ModelKind
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    images: int = 0
    image_steps: int = 0
    """Images × steps."""
    image_pixel_steps: int = 0
    """Images × steps × pixels."""
    queue_ms: float | None = None
    ttft_ms: float | None = None
    total_ms: float
    finish_reason: str | None = None
    error_code: str | None = None
    """Set if there is no finish reason."""
    is_streamed: bool = False

    @property
    def tokens(self) -> int:
        """Tokens that count against limits; image requests count as images instead."""
        return 0 if self.kind == "diffusion" else self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key and the digests of its secrets."""

    key: Key
    digest: bytes
    previous_digest: bytes | None
    """Of the secret before the last rotation."""
    previous_until_s: float | None
    """Unix time until which the previous secret authenticates."""
