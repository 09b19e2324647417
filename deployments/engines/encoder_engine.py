"""sentence-transformers as the loader of an encoder: its pooling, prompts and normalisation.

Batches are ours: see `batcher`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from api.backends import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from api.generation import Usage
from deployments.config import EncoderOptions
from deployments.engines.batcher import Batcher
from deployments.engines.encoder_inputs import InputReader, Tokens
from deployments.engines.hardware import Cores, pick_batch_tokens, pick_device, pick_dtype
from deployments.engines.prompts import Prompts
from deployments.engines.tensors import to_features
from deployments.engines.threaded_reader import ThreadedReader
from deployments.engines.vectors import VectorForm, find_allowed, to_cosines
from deployments.work import Work

if TYPE_CHECKING:
    import numpy as np

CAPACITY = 256
"""Requests that are taken at once: so many can share batches. Turns are fair beyond and within."""


class EncoderEngine:
    """One encoder, computing in a thread of its own."""

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

        device = pick_device(options.device)
        self._model = SentenceTransformer(
            model,
            device=device,
            local_files_only=True,
            model_kwargs={"dtype": pick_dtype(options.dtype, device)},
        ).eval()
        prompts = Prompts(
            options.prompts,
            self._model.prompts,
            options.prompt_name or self._model.default_prompt_name,
        )
        tokenizer = self._model.tokenizer
        self._reader = InputReader(tokenizer, self._find_max_tokens(options), prompts)
        self._input_types = prompts.names
        self._pad_id = int(tokenizer.pad_token_id or 0)
        self._leaves_prompts_out = any(
            isinstance(module, Pooling) and not module.include_prompt for module in self._model
        )
        self._is_normalized = isinstance(self._model[-1], Normalize)
        size = self._forward([self._reader.smallest]).shape[1]
        self._form = VectorForm(size, find_allowed(options.dimensions, model), self._is_normalized)
        self._inputs = ThreadedReader(self._reader)
        most = pick_batch_tokens(options.max_batch_tokens, device, self._reader.max_tokens)
        cores = Cores(device)
        self._batcher = Batcher(self._forward, most, cores.batches, cores.take)

    def _find_max_tokens(self, options: EncoderOptions) -> int:
        own = int(self._model.max_seq_length or self._model.tokenizer.model_max_length)
        return min(own, options.max_tokens or own)

    @property
    def capacity(self) -> int:
        """Requests that it takes at once."""
        return CAPACITY

    @property
    def details(self) -> Mapping[str, Any]:
        """What its card tells."""
        return {
            "task": "embed",
            **self._form.details,
            "max_tokens": self._reader.max_tokens,
            "input_types": self._input_types,
        }

    async def embed(self, request: EmbeddingRequest, work: Work | None = None) -> Embeddings:
        """Embed all inputs. Cancelling this call drops what has not been started.

        Raises:
            ContextLengthExceeded: an input is too long for the model.
            InvalidRequest: a token id is not in the vocabulary, all inputs are too long together,
                or vectors cannot be shortened so.
            RateLimited, Overloaded: `work.begin` says so.
        """
        self._form.check(request.dimensions)
        sequences = await self._inputs.read(request)
        usage = await begin(work or Work(), sequences)
        vectors = await self._batcher.run(sequences, request.origin)
        return self._form.to_embeddings(vectors, request.dimensions, usage)

    async def score(self, request: ScoreRequest, work: Work | None = None) -> Scores:
        """The cosine of each pair's vectors; raises what `embed` raises."""
        sequences = await self._inputs.read_sides(request)
        usage = await begin(work or Work(), sequences)
        vectors = await self._batcher.run(sequences, request.origin)
        return Scores(to_cosines(vectors, len(request.queries)), usage)

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
        await self._batcher.run([self._reader.smallest])

    def shut_down(self) -> None:
        """Take no more work."""
        self._inputs.shut_down()
        self._batcher.shut_down()


async def begin(work: Work, sequences: Sequence[Tokens]) -> Usage:
    """Count what a request takes, and wait for its turn; raises what `Work.begin` raises."""
    usage = Usage(prompt_tokens=sum(map(len, sequences)))
    await work.begin(usage.prompt_tokens)
    work.usage = usage
    return usage
