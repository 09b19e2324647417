"""The port to models that embed texts or score pairs of texts."""

from dataclasses import dataclass, field
from typing import Protocol

from api.ports.stream import Usage
from api.ports.tenancy import RequestContext


@dataclass(frozen=True, slots=True)
class Truncation:
    """What becomes of inputs that are too long."""

    is_wanted: bool = False
    """Whether they are cut; they are refused else."""
    max_tokens: int | None = None
    """Cut to so many tokens each; None is the model's own maximum."""
    max_total_tokens: int | None = None
    """Most tokens of the whole request; it is refused beyond."""


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts or token ids to be embedded."""

    request_id: str
    inputs: tuple[str | tuple[int, ...], ...]
    context: RequestContext = field(default_factory=RequestContext)
    dimensions: int | None = None
    """How many of the model's dimensions to keep; None keeps all."""
    input_type: str | None = None
    """What the texts are, such as `query`: it chooses the prompt that goes before them."""
    input_type_name: str = "input_type"
    """What the client calls it."""
    cut: Truncation = field(default_factory=Truncation)


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Pairs of texts to be scored: one query for each document, or one for all of them."""

    request_id: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    names: tuple[str, str]
    """What the client calls queries and documents; errors name them."""
    context: RequestContext = field(default_factory=RequestContext)
    is_search: bool = False
    """Whether the two sides differ in kind, and models with prompts for each use them."""
    cut: Truncation = field(default_factory=Truncation)


@dataclass(frozen=True, slots=True)
class Scores:
    """One score a document, in order."""

    scores: tuple[float, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector an input, in order; `vectors` is (N, dimensions) little-endian float32."""

    vectors: bytes
    dimensions: int
    usage: Usage


class EmbeddingBackend(Protocol):
    """A model that turns text into vectors, or pairs of texts into scores."""

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Embed all inputs. Cancelling this call stops the work."""

    async def score(self, request: ScoreRequest) -> Scores:
        """Score all pairs. Cancelling this call stops the work."""
