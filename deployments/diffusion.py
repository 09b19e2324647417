"""One replica of an image model: Ray's lifecycle around an engine."""

import os
from functools import partial
from typing import Protocol

from ray import serve

from api.backends import ImageRequest, Images
from deployments.config import DiffusionArgs
from deployments.desk import Desk
from deployments.engines.diffusers_engine import DiffusersEngine
from deployments.engines.fake_engines import FakeDiffusionEngine
from deployments.fair_queue import FairQueue
from deployments.loading import load_engine
from deployments.work import Work


class DiffusionEngine(Protocol):
    """What runs the model; the docstrings of `DiffusersEngine` hold for all."""

    @property
    def capacity(self) -> int:
        """How many requests it works on at once."""

    async def generate(self, request: ImageRequest, work: Work | None = None) -> Images:
        """Draw all images."""

    def check_health(self) -> None:
        """Raise if it does not work."""

    def shut_down(self) -> None:
        """Free what it holds."""


class DiffusionReplica:
    """Serves one model to the ingress replicas."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, args: DiffusionArgs
    ) -> None:
        """Load the model."""
        self._engine = load_engine(args, partial(_build_engine, args))
        queue = FairQueue(self._engine.capacity, args.max_waiting)
        self._desk = Desk(args.id, "diffusion", queue)

    async def generate(self, request: ImageRequest) -> Images:
        """Draw all images; cancelling the call stops the work between two steps."""
        async with self._desk.take_in(request.request_id, request.origin) as work:
            return await self._engine.generate(request, work)

    async def counts(self) -> dict[str, int]:
        """What is under way here; all but `pid` is 0 at rest."""
        return {"pid": os.getpid(), **self._desk.counts()}

    def check_health(self) -> None:
        """Prove that the engine works; Serve replaces the replica when this raises."""
        self._engine.check_health()

    def __del__(self) -> None:
        """End the engine's thread with the replica."""
        if hasattr(self, "_desk"):
            self._engine.shut_down()
            self._desk.shut_down()


def _build_engine(args: DiffusionArgs, folder: str | None) -> DiffusionEngine:
    return FakeDiffusionEngine() if folder is None else DiffusersEngine(folder, args.engine)


Diffusion = serve.deployment(
    name="Diffusion",
    # Whoever waits does so in the replica, where turns are fair: up to `max_waiting`.
    max_ongoing_requests=2048,
    max_queued_requests=256,
    max_constructor_retry_count=1,
    health_check_period_s=10,
    graceful_shutdown_timeout_s=660,  # above the ingress's request_timeout_s: drawings finish
)(DiffusionReplica)
