"""One replica of an image model: Ray's lifecycle around an engine."""

from functools import partial
from typing import Protocol

from ray import serve

from api.backends import ImageRequest, Images
from deployments.config import DiffusionArgs
from deployments.engines.diffusers_engine import DiffusersEngine
from deployments.engines.fake_engines import FakeDiffusionEngine
from deployments.loading import load_engine


class DiffusionEngine(Protocol):
    """What runs the model; the docstrings of `DiffusersEngine` hold for all."""

    async def generate(self, request: ImageRequest) -> Images:
        """Draw all images."""

    def check_health(self) -> None:
        """Raise if it does not work."""

    def shut_down(self) -> None:
        """Free what it holds."""


class DiffusionReplica:
    """Serves one model to the ingress replicas."""

    def __init__(self, args: DiffusionArgs) -> None:
        """Load the model."""
        self._engine = load_engine(args, partial(_build_engine, args))

    async def generate(self, request: ImageRequest) -> Images:
        """Draw all images; cancelling the call stops the work between two steps."""
        return await self._engine.generate(request)

    def check_health(self) -> None:
        """Prove that the engine works; Serve replaces the replica when this raises."""
        self._engine.check_health()

    def __del__(self) -> None:
        """End the engine's thread with the replica."""
        if hasattr(self, "_engine"):
            self._engine.shut_down()


def _build_engine(args: DiffusionArgs, folder: str | None) -> DiffusionEngine:
    return FakeDiffusionEngine() if folder is None else DiffusersEngine(folder, args.engine)


Diffusion = serve.deployment(
    name="Diffusion",
    max_ongoing_requests=16,
    max_queued_requests=256,
    max_constructor_retry_count=1,
    health_check_period_s=10,
    graceful_shutdown_timeout_s=660,  # above the ingress's request_timeout_s: drawings finish
)(DiffusionReplica)
