"""Replica of an encoder: Ray's lifecycle around an engine."""

import os
from contextlib import AbstractAsyncContextManager
from functools import partial

from ray import serve

from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from deployments.config.embedding import EmbeddingArgs
from deployments.config.user_config import LiveArgs
from deployments.engines.embedding.cross_encoder import CrossEncoderEngine, is_cross_encoder
from deployments.engines.embedding.sentence_transformer import SentenceTransformerEngine
from deployments.engines.embedding.vllm_encoder import VllmEncoderEngine
from deployments.engines.fakes import FakeEmbeddingEngine
from deployments.engines.protocol import EmbeddingEngine
from deployments.engines.vllm_sources import check_vllm_options
from deployments.ledger.address import find_ledger
from deployments.ledger.client import LedgerClient
from deployments.models.accounting import AccountedRequest, RequestAccounting
from deployments.models.capabilities import PublishedCapabilities
from deployments.models.engine_loading import load_engine
from deployments.models.fair_queue import FairQueue
from deployments.models.leases import Leases
from deployments.models.replica import ModelReplica
from deployments.transport.token_channel import StreamWriter


class EmbeddingReplica(ModelReplica[EmbeddingArgs]):
    """Serves one model to the ingress replicas."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, args: EmbeddingArgs
    ) -> None:
        """Load the model."""
        self._engine = load_engine(args, partial(_build_engine, args))
        self._leases = Leases(
            {"embed": (EmbeddingRequest, self._embed), "score": (ScoreRequest, self._score)}
        )
        self._capabilities = PublishedCapabilities(args, self._engine, self.cluster_store)
        self._args = LiveArgs(args)
        self._queue = FairQueue(self._engine.capacity, args.max_waiting)
        ledger = LedgerClient(find_ledger)
        self._accounting = RequestAccounting(args.id, "embedding", self._queue, ledger)
        await self._capabilities.publish()

    async def _embed(self, request: EmbeddingRequest, writer: StreamWriter) -> Embeddings:
        """Embed all inputs."""
        async with self._track(request, writer) as progress:
            with writer:
                return await self._engine.embed(request, progress)

    async def _score(self, request: ScoreRequest, writer: StreamWriter) -> Scores:
        """Score all pairs."""
        async with self._track(request, writer) as progress:
            with writer:
                return await self._engine.score(request, progress)

    def _track(
        self, request: EmbeddingRequest | ScoreRequest, writer: StreamWriter
    ) -> AbstractAsyncContextManager[AccountedRequest]:
        return self._accounting.track(
            request.request_id, request.context, on_waiting=writer.send_waiting
        )

    async def stats(self) -> dict[str, int]:
        """Counts of open requests; all but `pid` and `sockets` are 0 at rest."""
        return {"pid": os.getpid(), **self._leases.stats(), **self._accounting.stats()}

    async def check_health(self) -> None:
        """Raise if the engine does not work; Serve then replaces the replica."""
        await self._engine.check_health()

    def __del__(self) -> None:
        """End the engine's thread with the replica; its constructor may have failed half-way."""
        if hasattr(self, "_accounting"):
            self._leases.shut_down()
            self._engine.shut_down()
            self._capabilities.shut_down()
            self._accounting.shut_down()


def _build_engine(args: EmbeddingArgs, folder: str | None) -> EmbeddingEngine:
    if folder is None:
        return FakeEmbeddingEngine()
    if args.runner == "vllm":
        check_vllm_options(args.vllm, args.trust)
        vllm = {"trust_remote_code": "code" in args.trust, **args.vllm}
        return VllmEncoderEngine(folder, args.engine, vllm)
    if is_cross_encoder(folder, args.engine):
        return CrossEncoderEngine(folder, args.engine, args.trust)
    return SentenceTransformerEngine(folder, args.engine, args.trust)


Embedding = serve.deployment(
    name="Embedding",
    # Requests wait in the replica's fair queue, up to `max_waiting`, and not in Serve.
    max_ongoing_requests=2048,
    max_queued_requests=1024,
    max_constructor_retry_count=1,
    # A frozen replica is replaced after three failed checks, within 20 s.
    health_check_period_s=2,
    health_check_timeout_s=3,
    max_surge_percent=100,  # a new version must run before the old one stops
    graceful_shutdown_timeout_s=60,
)(EmbeddingReplica)
