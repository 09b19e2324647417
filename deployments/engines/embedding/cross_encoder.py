"""sentence-transformers as the loader of a cross-encoder, which reads a pair as one text."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from api.errors import WrongModelKindError
from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from deployments.config.embedding import EncoderOptions
from deployments.engines.cancellable_thread import Worker
from deployments.engines.embedding.batcher import HEALTH
from deployments.engines.embedding.inputs import PairReader, Tokens
from deployments.engines.embedding.loading import (
    find_max_tokens,
    load_encoder,
    start_batcher,
    to_features,
)
from deployments.engines.embedding.prompts import Prompts
from deployments.engines.embedding.vector_engine import CAPACITY, begin
from deployments.engines.embedding.vectors import read_config
from deployments.engines.protocol import RequestProgress

if TYPE_CHECKING:
    import numpy as np

_WRITING = ("text-generation", "any-to-any")
"""Tasks of models that judge by writing, each with a chat template for pairs: not what is read."""


def is_cross_encoder(folder: str, options: EncoderOptions) -> bool:
    """Whether a model scores pairs: as configured, else by its architecture."""
    if options.task != "auto":
        return options.task == "rerank"
    architectures = read_config(folder).get("architectures") or [""]
    return bool(architectures[0].endswith("ForSequenceClassification"))


def _find_prompt(model: Any, options: EncoderOptions) -> str:
    """What goes before each query: as sentence-transformers does it, not before documents."""
    name = options.prompt_name or model.default_prompt_name
    return Prompts(options.prompts, model.prompts, name).get(None)


class CrossEncoderEngine:
    """One cross-encoder, computing in a thread of its own."""

    def __init__(self, model: str, options: EncoderOptions) -> None:
        """Load the model; takes seconds, and blocks.

        Args:
            model: a local folder.
            options: how to run it.

        Raises:
            ValueError: it classifies instead of scoring, or scores by writing a word.
            KeyError: the prompt that the configuration names is not there.
            Exception: whatever sentence-transformers raises when it cannot load the model.
        """
        from sentence_transformers import CrossEncoder

        self._model = load_encoder(CrossEncoder, model, options)
        if self._model.num_labels != 1:
            raise ValueError(f"the model tells {self._model.num_labels} classes apart: no score")
        if getattr(self._model[0], "transformer_task", None) in _WRITING:
            raise ValueError("the model writes its judgement: only those that classify are served")
        tokenizer = self._model.tokenizer
        most_tokens = find_max_tokens(self._model, options.max_tokens)
        self._reader = PairReader(tokenizer, most_tokens, _find_prompt(self._model, options))
        self._pad_id = int(tokenizer.pad_token_id or 0)
        self._tokenizing = Worker("tokenizer")
        self._batcher = start_batcher(self._forward, options)

    @property
    def capacity(self) -> int:
        """Requests that it takes at once."""
        return CAPACITY

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What its card tells."""
        return {"task": "rerank", "max_tokens": self._reader.max_tokens}

    async def embed(
        self, request: EmbeddingRequest, work: RequestProgress | None = None
    ) -> Embeddings:
        """It has no vectors.

        Raises:
            WrongModelKindError: always.
        """
        raise WrongModelKindError(
            "This model scores pairs of texts: it serves /v1/rerank and /v1/score, not this "
            "endpoint.",
            param="model",
        )

    async def score(self, request: ScoreRequest, work: RequestProgress | None = None) -> Scores:
        """Score all pairs. Cancelling this call drops what has not been started.

        Raises:
            ContextLengthExceededError: a pair is too long for the model.
            InvalidRequestError: all pairs are too long together.
            RateLimitError, OverloadedError: `work.begin` says so.
        """
        sequences = await self._tokenizing.run(lambda stop: self._reader.read(request, stop.check))
        usage = await begin(work or RequestProgress(), sequences)
        scores = await self._batcher.run(sequences, request.context)
        return Scores(tuple(scores.tolist()), usage)

    def _forward(self, sequences: Sequence[Tokens]) -> "np.ndarray":
        """One pass over one batch: (B,) float32."""
        import torch

        features = to_features(sequences, self._pad_id, self._model.device)
        with torch.inference_mode():
            scores = self._model(features)["scores"].float()
            scores = self._model.activation_fn(scores).reshape(len(sequences))
        array: np.ndarray = scores.cpu().numpy()
        return array

    async def check_health(self) -> None:
        """Prove that the model still computes, with the smallest input there is."""
        await self._batcher.run([self._reader.smallest], HEALTH)

    def shut_down(self) -> None:
        """Take no more work."""
        self._tokenizing.shut_down()
        self._batcher.shut_down()
