"""Encoders loaded by sentence-transformers: its pooling, prompts and normalization.

Batches are ours: see `batcher`.
"""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from api.ports.embeddings import EmbeddingRequest, ScoreRequest
from deployments.config.embedding import EncoderOptions
from deployments.engines.embedding.batcher import HEALTH
from deployments.engines.embedding.inputs import InputReader, Tokens
from deployments.engines.embedding.loading import (
    find_max_tokens,
    load_encoder,
    start_batcher,
    to_features,
)
from deployments.engines.embedding.prompts import Prompts
from deployments.engines.embedding.vector_engine import VectorEngine
from deployments.engines.embedding.vectors import EmbeddingSpec, find_matryoshka_dimensions

if TYPE_CHECKING:
    import numpy as np


class SentenceTransformerEngine(VectorEngine):
    """One encoder, computing in threads of its own."""

    def __init__(self, model: str, options: EncoderOptions, trust: Collection[str] = ()) -> None:
        """Load the model; takes seconds, and blocks.

        Args:
            model: a local folder.
            options: how to run the model.
            trust: what is accepted of its files, as in the configuration.

        Raises:
            KeyError: the configured prompt does not exist.
            Exception: what sentence-transformers raises when it cannot load the model.
        """
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

        self._model = load_encoder(SentenceTransformer, model, options, trust)
        prompts = Prompts(
            options.prompts,
            self._model.prompts,
            options.prompt_name or self._model.default_prompt_name,
        )
        tokenizer = self._model.tokenizer
        reader = InputReader(tokenizer, find_max_tokens(self._model, options.max_tokens), prompts)
        self._pad_id = int(tokenizer.pad_token_id or 0)
        self._excludes_prompt = any(
            isinstance(module, Pooling) and not module.include_prompt for module in self._model
        )
        self._is_normalized = isinstance(self._model[-1], Normalize)
        size = self._forward([reader.smallest]).shape[1]
        spec = EmbeddingSpec(
            size, find_matryoshka_dimensions(options.dimensions, model), self._is_normalized
        )
        super().__init__(reader, prompts, spec)
        self._batcher = start_batcher(self._forward, options)

    async def _encode(
        self, sequences: Sequence[Tokens], request: EmbeddingRequest | ScoreRequest
    ) -> "np.ndarray":
        return await self._batcher.run(sequences, request.context)

    def _forward(self, sequences: Sequence[Tokens]) -> "np.ndarray":
        """Compute one batch: (B, D) float32."""
        if not self._excludes_prompt:
            return self._compute(sequences, 0)
        # A pooling that excludes the prompt takes one prompt length for the whole batch.
        import numpy as np

        lengths = {each.prompt_tokens for each in sequences}
        rows_by_length = {
            length: iter(
                self._compute([each for each in sequences if each.prompt_tokens == length], length)
            )
            for length in lengths
        }
        return np.stack([next(rows_by_length[each.prompt_tokens]) for each in sequences])

    def _compute(self, sequences: Sequence[Tokens], prompt_tokens: int) -> "np.ndarray":
        import torch

        features: dict[str, Any] = to_features(sequences, self._pad_id, self._model.device)
        if prompt_tokens:
            features["prompt_length"] = prompt_tokens
        with torch.inference_mode():
            vectors = self._model(features)["sentence_embedding"].float()
            if self._is_normalized:
                # Again, in float32: bfloat16 leaves the norm up to 0.4 % off.
                vectors = torch.nn.functional.normalize(vectors, dim=1)
        array: np.ndarray = vectors.cpu().numpy()
        return array  # (B, D) float32

    async def check_health(self) -> None:
        """Run the smallest input through the model; raises what it raises."""
        await self._batcher.run([self._reader.smallest], HEALTH)

    def shut_down(self) -> None:
        """End the threads of the tokenizer and of the batcher."""
        super().shut_down()
        self._batcher.shut_down()
