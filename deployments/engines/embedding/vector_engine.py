"""What all engines of vectors have in common: requests → token ids, vectors → answers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from api.ports.stream import Usage
from deployments.engines.embedding.inputs import InputReader, Tokens
from deployments.engines.embedding.prompts import Prompts
from deployments.engines.embedding.threaded_reader import ThreadedReader
from deployments.engines.embedding.vectors import EmbeddingSpec, to_cosines
from deployments.engines.protocol import RequestProgress

if TYPE_CHECKING:
    import numpy as np

CAPACITY = 256
"""Requests that are taken at once: so many can share batches. Turns are fair beyond and within."""


class VectorEngine(ABC):
    """An encoder, but for the computing."""

    def __init__(self, reader: InputReader, prompts: Prompts, form: EmbeddingSpec) -> None:
        """Read by `reader`, and give vectors of that form."""
        self._reader = reader
        self._form = form
        self._inputs = ThreadedReader(reader)
        self._capabilities = {
            "task": "embed",
            **form.capabilities,
            "max_tokens": reader.max_tokens,
            "input_types": prompts.names,
        }

    @property
    def capacity(self) -> int:
        """Requests that it takes at once."""
        return CAPACITY

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What its card tells."""
        return self._capabilities

    async def embed(
        self, request: EmbeddingRequest, work: RequestProgress | None = None
    ) -> Embeddings:
        """Embed all inputs. Cancelling this call drops what has not been started.

        Raises:
            ContextLengthExceededError: an input is too long for the model.
            InvalidRequestError: a token id is not in the vocabulary, all inputs are too long together,
                or vectors cannot be shortened so.
            RateLimitError, OverloadedError: `work.begin` says so.
            EngineError, ReplicaLostError: vLLM failed at this request, or altogether.
        """
        self._form.check(request.dimensions)
        sequences = await self._inputs.read(request)
        usage = await begin(work or RequestProgress(), sequences)
        vectors = await self._encode(sequences, request)
        return self._form.to_embeddings(vectors, request.dimensions, usage)

    async def score(self, request: ScoreRequest, work: RequestProgress | None = None) -> Scores:
        """The cosine of each pair's vectors; raises what `embed` raises."""
        sequences = await self._inputs.read_sides(request)
        usage = await begin(work or RequestProgress(), sequences)
        vectors = await self._encode(sequences, request)
        return Scores(to_cosines(vectors, len(request.queries)), usage)

    @abstractmethod
    async def _encode(
        self, sequences: Sequence[Tokens], request: EmbeddingRequest | ScoreRequest
    ) -> "np.ndarray":
        """The vectors of a request: (N, D) float32."""

    def shut_down(self) -> None:
        """Take no more work."""
        self._inputs.shut_down()


async def begin(work: RequestProgress, sequences: Sequence[Tokens]) -> Usage:
    """Count what a request takes, and wait for its turn; raises what `Work.begin` raises."""
    usage = Usage(prompt_tokens=sum(map(len, sequences)))
    await work.begin(usage.prompt_tokens)
    work.usage = usage
    return usage
