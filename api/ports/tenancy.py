"""Keys, their permissions and limits, and the context of a request: data shared with models."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, get_args

Scope = Literal["chat", "embeddings", "images", "admin"]
"""What a key may do. `chat` includes completions; `admin` is for keys and all usage."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
MODEL_SCOPES: frozenset[Scope] = frozenset(scope for scope in SCOPES if scope != "admin")

PriorityClass = Literal["high", "normal", "low"]
"""Order in which requests that wait for a model are served."""

PRIORITIES: tuple[PriorityClass, ...] = get_args(PriorityClass)

ModelKind = Literal["llm", "embedding", "diffusion"]


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """The limits of one key; None is no limit. Minutes slide, days and months are in UTC."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    images_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    pixel_steps_per_minute: int | None = None
    """Width × height × denoising steps of all images: what they cost."""

    @property
    def has_any(self) -> bool:
        """Whether there is any limit."""
        return self != _NO_LIMITS

    @property
    def has_tokens(self) -> bool:
        """Whether there is a limit of tokens."""
        token_limits = (self.tokens_per_minute, self.tokens_per_day, self.tokens_per_month)
        return any(limit is not None for limit in token_limits)


_NO_LIMITS = KeyLimits()


@dataclass(frozen=True, slots=True)
class Key:
    """One API key, without its secret."""

    id: str
    """Eight characters, which are also part of the secret."""
    name: str
    tenant: str
    models: tuple[str, ...] = ("*",)
    """Globs of the names of models and adapters that the key may use."""
    scopes: frozenset[Scope] = MODEL_SCOPES
    limits: KeyLimits = field(default_factory=KeyLimits)
    priority: PriorityClass = "normal"
    may_log_prompts: bool = False
    """Whether `log_prompt` has an effect in its requests."""
    created_at_s: float = 0.0
    expires_at_s: float | None = None
    """Unix time."""
    is_disabled: bool = False

    def may_use(self, model: str) -> bool:
        """Return whether the key may use a model or adapter."""
        return any(fnmatchcase(model, glob) for glob in self.models)

    def is_valid_at(self, now_s: float) -> bool:
        """Return whether the key is neither disabled nor expired at a Unix time."""
        return not self.is_disabled and (self.expires_at_s is None or now_s < self.expires_at_s)


@dataclass(frozen=True, slots=True)
class RequestContext:
    """The origin of a request, sent to the model for queueing, limits and metering."""

    key_id: str = ""
    tenant: str = ""
    priority: PriorityClass = "normal"
    has_token_limits: bool = False
    cache_salt: str | None = None
    """Keeps cached prompt prefixes apart from other tenants'."""
    user: str | None = None
    """The client's name for its end user."""
    endpoint: str = ""
    """The path without `/v1/`."""
    model: str = ""
    """The model as the client named it."""
    is_streamed: bool = False
    usage_id: str = ""
    """Id of the request's usage record: one, even if two replicas worked on the request."""
    is_retried: bool = False
    """Another replica was lost while it worked on the request, and may have recorded its usage."""
