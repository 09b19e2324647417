"""sentence-transformers as the loader of an encoder: its pooling, prompts and normalisation.

Batches are ours: see `batcher`.
"""

from collections.abc import Sequence
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
from deployments.engines.embedding.vectors import EmbeddingSpec, find_allowed

if TYPE_CHECKING:
    import numpy as np


class EncoderEngine(VectorEngine):
    """One encoder, computing in threads of its own."""

    def __init__(self, model: str, options: EncoderOptions) -> None:
        """Load the model; takes seconds, and blocks.

        Args:
            model: a local folder.
            options: how to run it.

        Raises:
            Exception: whatever sentence-transformers raises when it cannot load the model.
        """
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

        self._model = load_encoder(SentenceTransformer, model, options)
        prompts = Prompts(
            options.prompts,
            self._model.prompts,
            options.prompt_name or self._model.default_prompt_name,
        )
        tokenizer = self._model.tokenizer
        reader = InputReader(tokenizer, find_max_tokens(self._model, options.max_tokens), prompts)
        self._pad_id = int(tokenizer.pad_token_id or 0)
        self._leaves_prompts_out = any(
            isinstance(module, Pooling) and not module.include_prompt for module in self._model
        )
        self._is_normalized = isinstance(self._model[-1], Normalize)
        size = self._forward([reader.smallest]).shape[1]
        form = EmbeddingSpec(size, find_allowed(options.dimensions, model), self._is_normalized)
        super().__init__(reader, prompts, form)
        self._batcher = start_batcher(self._forward, options)

    async def _encode(
        self, sequences: Sequence[Tokens], request: EmbeddingRequest | ScoreRequest
    ) -> "np.ndarray":
        return await self._batcher.run(sequences, request.context)

    def _forward(self, sequences: Sequence[Tokens]) -> "np.ndarray":
        """One pass over one batch: (B, D) float32."""
        if not self._leaves_prompts_out:
            return self._compute(sequences, 0)
        # Poolings that leave the prompt out take one length of it for the whole batch.
        import numpy as np

        lengths = {each.prompt_tokens for each in sequences}
        parts = {
            length: iter(
                self._compute([each for each in sequences if each.prompt_tokens == length], length)
            )
            for length in lengths
        }
        return np.stack([next(parts[each.prompt_tokens]) for each in sequences])

    def _compute(self, sequences: Sequence[Tokens], prompt_tokens: int) -> "np.ndarray":
        import torch

        features: dict[str, Any] = to_features(sequences, self._pad_id, self._model.device)
        if prompt_tokens:
            features["prompt_length"] = prompt_tokens
        with torch.inference_mode():
            vectors = self._model(features)["sentence_embedding"].float()
            if self._is_normalized:
                # Once more in float32: bfloat16 leaves the norm up to 0.4 % off.
                vectors = torch.nn.functional.normalize(vectors, dim=1)
        array: np.ndarray = vectors.cpu().numpy()
        return array

    async def check_health(self) -> None:
        """Prove that the model still computes, with the smallest input there is."""
        await self._batcher.run([self._reader.smallest], HEALTH)

    def shut_down(self) -> None:
        """Take no more work."""
        super().shut_down()
        self._batcher.shut_down()
