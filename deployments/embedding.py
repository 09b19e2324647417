"""One replica of an encoder: Ray's lifecycle around an engine."""

from functools import partial
from typing import Protocol

from ray import serve

from api.backends import EmbeddingRequest, Embeddings
from deployments.config import EmbeddingArgs
from deployments.engines.encoder_engine import EncoderEngine
from deployments.engines.fake_engines import FakeEncoderEngine
from deployments.loading import load_engine


class EmbeddingEngine(Protocol):
    """What runs the model; the docstrings of `EncoderEngine` hold for all."""

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Embed all inputs."""

    def check_health(self) -> None:
        """Raise if it does not work."""

    def shut_down(self) -> None:
        """Free what it holds."""


class EmbeddingReplica:
    """Serves one model to the ingress replicas."""

    def __init__(self, args: EmbeddingArgs) -> None:
        """Load the model."""
        self._engine = load_engine(args, partial(_build_engine, args))

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Embed all inputs; cancelling the call stops the work."""
        return await self._engine.embed(request)

    def check_health(self) -> None:
        """Prove that the engine works; Serve replaces the replica when this raises."""
        self._engine.check_health()

    def __del__(self) -> None:
        """End the engine's thread with the replica."""
        if hasattr(self, "_engine"):
            self._engine.shut_down()


def _build_engine(args: EmbeddingArgs, folder: str | None) -> EmbeddingEngine:
    return FakeEncoderEngine() if folder is None else EncoderEngine(folder, args.engine)


Embedding = serve.deployment(
    name="Embedding",
    max_ongoing_requests=64,
    max_queued_requests=1024,
    max_constructor_retry_count=1,
    health_check_period_s=10,
    graceful_shutdown_timeout_s=60,
)(EmbeddingReplica)
