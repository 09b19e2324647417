"""The port to models that embed texts or score pairs of texts."""

from dataclasses import dataclass, field
from typing import Protocol

from api.ports.stream import Usage
from api.ports.tenancy import RequestContext


@dataclass(frozen=True, slots=True)
class Truncation:
    """How inputs that are too long are treated."""

    is_wanted: bool = False
    """True truncates them, False refuses the request."""
    max_tokens: int | None = None
    """Truncate each input to this length; None is the model's own maximum."""
    max_total_tokens: int | None = None
    """Limit on the tokens of all inputs together; beyond, the request is refused."""


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts or token ids to be embedded."""

    request_id: str
    inputs: tuple[str | tuple[int, ...], ...]
    context: RequestContext = field(default_factory=RequestContext)
    dimensions: int | None = None
    """How many dimensions of each vector to keep; None keeps all."""
    input_type: str | None = None
    """Kind of the texts, such as `query`: selects the prompt that precedes them."""
    input_type_name: str = "input_type"
    """The client's name for the parameter; errors name it."""
    truncation: Truncation = field(default_factory=Truncation)


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Pairs of texts to be scored: one query for each document, or one for all of them."""

    request_id: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    names: tuple[str, str]
    """The client's names for queries and documents; errors name them."""
    context: RequestContext = field(default_factory=RequestContext)
    is_search: bool = False
    """Whether queries and documents differ in kind, so that each side has its own prompt."""
    truncation: Truncation = field(default_factory=Truncation)


@dataclass(frozen=True, slots=True)
class Scores:
    """One score per document, in order."""

    scores: tuple[float, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector per input, in order; `vectors` is (N, dimensions) little-endian float32."""

    vectors: bytes
    dimensions: int
    usage: Usage


class EmbeddingBackend(Protocol):
    """A model that turns text into vectors, or pairs of texts into scores."""

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Embed all inputs. Cancelling the call stops the computation."""

    async def score(self, request: ScoreRequest) -> Scores:
        """Score all pairs. Cancelling the call stops the computation."""
