"""One replica of an encoder: Ray's lifecycle around an engine."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

from ray import serve

from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from deployments.config.embedding import EmbeddingArgs
from deployments.desk import Desk
from deployments.engines.cross_encoder import CrossEncoderEngine, is_cross_encoder
from deployments.engines.encoder_engine import EncoderEngine
from deployments.engines.fake_engines import FakeEncoderEngine
from deployments.engines.vllm_encoder import VllmEncoderEngine
from deployments.fair_queue import FairQueue
from deployments.loading import load_engine
from deployments.work import Work


class EmbeddingEngine(Protocol):
    """What runs the model; the docstrings of `EncoderEngine` hold for all."""

    @property
    def capacity(self) -> int:
        """How many requests it works on at once."""

    @property
    def details(self) -> Mapping[str, Any]:
        """What its card tells."""

    async def embed(self, request: EmbeddingRequest, work: Work | None = None) -> Embeddings:
        """Embed all inputs."""

    async def score(self, request: ScoreRequest, work: Work | None = None) -> Scores:
        """Score all pairs."""

    async def check_health(self) -> None:
        """Raise if it does not work."""

    def shut_down(self) -> None:
        """Free what it holds."""


class EmbeddingReplica:
    """Serves one model to the ingress replicas."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, args: EmbeddingArgs
    ) -> None:
        """Load the model."""
        self._engine = load_engine(args, partial(_build_engine, args))
        queue = FairQueue(self._engine.capacity, args.max_waiting)
        self._desk = Desk(args.id, "embedding", queue)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Embed all inputs; cancelling the call stops the work."""
        async with self._desk.take_in(request.request_id, request.origin) as work:
            return await self._engine.embed(request, work)

    async def score(self, request: ScoreRequest) -> Scores:
        """Score all pairs; cancelling the call stops the work."""
        async with self._desk.take_in(request.request_id, request.origin) as work:
            return await self._engine.score(request, work)

    async def details(self) -> Mapping[str, Any]:
        """What the card of the model tells of it."""
        return self._engine.details

    async def counts(self) -> dict[str, int]:
        """What is under way here; all but `pid` is 0 at rest."""
        return {"pid": os.getpid(), **self._desk.counts()}

    async def check_health(self) -> None:
        """Prove that the engine works; Serve replaces the replica when this raises."""
        await self._engine.check_health()

    def __del__(self) -> None:
        """End the engine's thread with the replica."""
        if hasattr(self, "_desk"):
            self._engine.shut_down()
            self._desk.shut_down()


def _build_engine(args: EmbeddingArgs, folder: str | None) -> EmbeddingEngine:
    if folder is None:
        return FakeEncoderEngine()
    if args.runner == "vllm":
        return VllmEncoderEngine(folder, args.engine, args.vllm)
    if is_cross_encoder(folder, args.engine):
        return CrossEncoderEngine(folder, args.engine)
    return EncoderEngine(folder, args.engine)


Embedding = serve.deployment(
    name="Embedding",
    # Whoever waits does so in the replica, where turns are fair: up to `max_waiting`.
    max_ongoing_requests=2048,
    max_queued_requests=1024,
    max_constructor_retry_count=1,
    health_check_period_s=10,
    graceful_shutdown_timeout_s=60,
)(EmbeddingReplica)
