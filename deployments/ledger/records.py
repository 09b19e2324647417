"""What is kept: a record of every request, and the keys."""

import uuid
from dataclasses import dataclass, field

from api.ports.tenancy import Key, ModelKind


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRecord:
    """What one request took. It is written by the replica that did the work, and once only.

    `id` is ours and tells one record from another; `request_id` may be the client's choice.
    Times are in milliseconds; None where there is no such moment.
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
    """Id of the model as configured."""
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
    """Why there is no finish reason."""
    is_streamed: bool = False

    @property
    def tokens(self) -> int:
        """What counts against token limits: pictures are counted as images instead."""
        return 0 if self.kind == "diffusion" else self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key, and by which secrets it is known."""

    key: Key
    digest: bytes
    previous_digest: bytes | None
    """The secret before the last rotation, …"""
    previous_until_s: float | None
    """… which opens until this Unix time."""
