"""What all engines of vectors have in common: requests → token ids, vectors → responses."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from api.ports.stream import Usage
from deployments.engines.embedding.inputs import InputReader, Tokens
from deployments.engines.embedding.prompts import Prompts
from deployments.engines.embedding.vectors import EmbeddingSpec, to_cosines
from deployments.engines.protocol import RequestProgress
from deployments.engines.tokenizer_thread import TokenizerThread

if TYPE_CHECKING:
    import numpy as np

CAPACITY = 256
"""Requests in the engine at once: enough to share batches. The queue before it is fair as well."""


class VectorEngine(ABC):
    """An `EmbeddingEngine` without the model; a subclass computes the vectors."""

    def __init__(self, reader: InputReader, prompts: Prompts, spec: EmbeddingSpec) -> None:
        """Use `reader` for inputs and `spec` for vectors."""
        self._reader = reader
        self._spec = spec
        self._tokenizing = TokenizerThread(reader, reader)
        self._capabilities = {
            "task": "embed",
            **spec.capabilities,
            "max_tokens": reader.max_tokens,
            "input_types": prompts.names,
        }

    @property
    def capacity(self) -> int:
        """See `EmbeddingEngine`."""
        return CAPACITY

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """See `EmbeddingEngine`."""
        return self._capabilities

    async def embed(
        self, request: EmbeddingRequest, progress: RequestProgress | None = None
    ) -> Embeddings:
        """Embed all inputs. Cancelling this call drops the sequences not yet started.

        Raises:
            ContextLengthExceededError: an input is too long for the model.
            InvalidRequestError: a token id is not in the vocabulary, all inputs are too long
                together, or the vectors cannot be shortened to this size.
            UnsupportedParameterError: the model has no such input type, or its vectors cannot be
                shortened.
            RateLimitError, OverloadedError: from `progress.begin`.
            EngineError, ReplicaLostError: vLLM failed at this request, or died.
        """
        self._spec.check(request.dimensions)
        # Only a single text may run inline: the tokenizer shares several among threads of its own,
        # which may all be busy with longer texts.
        chars = len(request.inputs[0]) if len(request.inputs) == 1 else None
        sequences = await self._tokenizing.run(
            chars, lambda reader, stop: reader.read(request, stop.check), request.context
        )
        usage = await begin(progress or RequestProgress(), sequences)
        vectors = await self._encode(sequences, request)
        return self._spec.to_embeddings(vectors, request.dimensions, usage)

    async def score(self, request: ScoreRequest, progress: RequestProgress | None = None) -> Scores:
        """Compute the cosine similarity of each pair; raises what `embed` raises."""
        sequences = await self._tokenizing.run(
            None, lambda reader, stop: reader.read_sides(request, stop.check), request.context
        )
        usage = await begin(progress or RequestProgress(), sequences)
        vectors = await self._encode(sequences, request)
        return Scores(to_cosines(vectors, len(request.queries)), usage)

    @abstractmethod
    async def _encode(
        self, sequences: Sequence[Tokens], request: EmbeddingRequest | ScoreRequest
    ) -> "np.ndarray":
        """Compute the vectors of a request: (N, D) float32."""

    def shut_down(self) -> None:
        """End the tokenizer's thread."""
        self._tokenizing.shut_down()


async def begin(progress: RequestProgress, sequences: Sequence[Tokens]) -> Usage:
    """Count the tokens of a request and wait for its turn.

    Raises:
        RateLimitError, OverloadedError: from `progress.begin`.
    """
    usage = Usage(prompt_tokens=sum(map(len, sequences)))
    await progress.begin(usage.prompt_tokens)
    progress.usage = usage
    return usage
