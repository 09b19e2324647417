"""Cross-encoders, which read a pair of texts as one; loaded by sentence-transformers."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from api.errors import WrongModelKindError
from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from deployments.config.embedding import EncoderOptions
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
from deployments.engines.tokenizer_thread import TokenizerThread

if TYPE_CHECKING:
    import numpy as np

_GENERATIVE_TASKS = ("text-generation", "any-to-any")
"""Tasks of rerankers that generate their verdict; they need a chat template per pair."""


def is_cross_encoder(folder: str, options: EncoderOptions) -> bool:
    """Whether a model scores pairs: as configured, else by its architecture."""
    if options.task != "auto":
        return options.task == "rerank"
    architectures = read_config(folder).get("architectures") or [""]
    return bool(architectures[0].endswith("ForSequenceClassification"))


def _find_prompt(model: Any, options: EncoderOptions) -> str:
    """Find the prompt of the queries; documents have none, as in sentence-transformers."""
    name = options.prompt_name or model.default_prompt_name
    return Prompts(options.prompts, model.prompts, name).get(None)


class CrossEncoderEngine:
    """One cross-encoder, computing in threads of its own."""

    def __init__(self, model: str, options: EncoderOptions, trust: Collection[str] = ()) -> None:
        """Load the model; takes seconds, and blocks.

        Args:
            model: a local folder.
            options: how to run the model.
            trust: what is accepted of its files, as in the configuration.

        Raises:
            ValueError: the model is a classifier of several classes, or generates its verdict.
            KeyError: the configured prompt does not exist.
            Exception: what sentence-transformers raises when it cannot load the model.
        """
        from sentence_transformers import CrossEncoder

        self._model = load_encoder(CrossEncoder, model, options, trust)
        if self._model.num_labels != 1:
            raise ValueError(f"the model has {self._model.num_labels} classes instead of one score")
        if getattr(self._model[0], "transformer_task", None) in _GENERATIVE_TASKS:
            raise ValueError("the model generates its verdict: only classifiers are supported")
        tokenizer = self._model.tokenizer
        max_tokens = find_max_tokens(self._model, options.max_tokens)
        self._reader = PairReader(tokenizer, max_tokens, _find_prompt(self._model, options))
        self._pad_id = int(tokenizer.pad_token_id or 0)
        self._tokenizing = TokenizerThread(self._reader, self._reader)
        self._batcher = start_batcher(self._forward, options)

    @property
    def capacity(self) -> int:
        """See `EmbeddingEngine`."""
        return CAPACITY

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """See `EmbeddingEngine`."""
        return {"task": "rerank", "max_tokens": self._reader.max_tokens}

    async def embed(
        self, request: EmbeddingRequest, progress: RequestProgress | None = None
    ) -> Embeddings:
        """Refuse: a cross-encoder has no vectors.

        Raises:
            WrongModelKindError: always.
        """
        raise WrongModelKindError(
            "This model scores pairs of texts: it serves /v1/rerank and /v1/score, not this "
            "endpoint.",
            param="model",
        )

    async def score(self, request: ScoreRequest, progress: RequestProgress | None = None) -> Scores:
        """Score all pairs. Cancelling this call drops the pairs not yet started.

        Raises:
            ContextLengthExceededError: a pair is too long for the model.
            InvalidRequestError: all pairs are too long together.
            RateLimitError, OverloadedError: from `progress.begin`.
        """
        sequences = await self._tokenizing.run(
            None,  # always in the thread: truncation reconfigures the tokenizer
            lambda reader, stop: reader.read(request, stop.check),
            request.context,
        )
        usage = await begin(progress or RequestProgress(), sequences)
        scores = await self._batcher.run(sequences, request.context)
        return Scores(tuple(scores.tolist()), usage)

    def _forward(self, sequences: Sequence[Tokens]) -> "np.ndarray":
        """Compute one batch: (B,) float32."""
        import torch

        features = to_features(sequences, self._pad_id, self._model.device)
        with torch.inference_mode():
            scores = self._model(features)["scores"].float()
            scores = self._model.activation_fn(scores).reshape(len(sequences))
        array: np.ndarray = scores.cpu().numpy()
        return array  # (B,) float32

    async def check_health(self) -> None:
        """Run the smallest input through the model; raises what it raises."""
        await self._batcher.run([self._reader.smallest], HEALTH)

    def shut_down(self) -> None:
        """End the threads of the tokenizer and of the batcher."""
        self._tokenizing.shut_down()
        self._batcher.shut_down()
