"""Who asks, what they may, and how much of it: data that the HTTP face and the models share."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, get_args

Scope = Literal["chat", "embeddings", "images", "admin"]
"""What a key opens; `chat` means text of every kind, and only `admin` the keys and all usage."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
MODEL_SCOPES: frozenset[Scope] = frozenset(scope for scope in SCOPES if scope != "admin")

PriorityClass = Literal["high", "normal", "low"]
"""Whose turn comes first where requests have to wait for a model."""

PRIORITIES: tuple[PriorityClass, ...] = get_args(PriorityClass)

ModelKind = Literal["llm", "embedding", "diffusion"]
"""The kinds of models."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """How much one key may use; None is no limit. Minutes slide, days and months are UTC's."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    images_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None

    @property
    def has_any(self) -> bool:
        """Whether there is any limit."""
        return self != _NO_LIMITS

    @property
    def has_tokens(self) -> bool:
        """Whether any of them counts tokens."""
        counted = (self.tokens_per_minute, self.tokens_per_day, self.tokens_per_month)
        return any(limit is not None for limit in counted)


_NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class Key:
    """One API key, without its secret."""

    id: str
    """Eight characters, which stand in the key too."""
    name: str
    tenant: str
    models: tuple[str, ...] = ("*",)
    """Globs over the names of models and of their adapters."""
    scopes: frozenset[Scope] = MODEL_SCOPES
    limits: KeyLimits = field(default_factory=KeyLimits)
    priority: PriorityClass = "normal"
    may_log_prompts: bool = False
    """Whether its requests may say `log_prompt`."""
    created_at_s: float = 0.0
    expires_at_s: float | None = None
    """Unix time."""
    is_disabled: bool = False

    def may_use(self, model: str) -> bool:
        """Whether the name of a model or adapter is among those allowed."""
        return any(fnmatchcase(model, glob) for glob in self.models)

    def is_valid_at(self, now_s: float) -> bool:
        """Whether it opens anything."""
        return not self.is_disabled and (self.expires_at_s is None or now_s < self.expires_at_s)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Where a request comes from, as it travels to the model: for turns, limits and metering."""

    key_id: str = ""
    tenant: str = ""
    priority: PriorityClass = "normal"
    has_token_limits: bool = False
    cache_salt: str | None = None
    """Keeps the prefixes of prompts that are cached apart from other tenants'."""
    user: str | None = None
    """What the client says of who uses it."""
    endpoint: str = ""
    """The path without `/v1/`."""
    model: str = ""
    """As the client named it."""
    is_streamed: bool = False
