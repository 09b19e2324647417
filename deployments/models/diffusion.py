"""Replica of an image model: Ray's lifecycle around an engine."""

import asyncio
import os
from contextlib import AbstractAsyncContextManager
from functools import partial

from ray import serve

from api.ports.images import ImageRequest, Images
from deployments.autoscaling import IMAGE_STEPS
from deployments.config.diffusion import DiffusionArgs
from deployments.config.user_config import LiveArgs
from deployments.engines.diffusion.diffusers_engine import DiffusersEngine
from deployments.engines.diffusion.pipelines import Pipelines
from deployments.engines.fakes import FakeDiffusionEngine
from deployments.engines.protocol import DiffusionEngine
from deployments.ledger.address import find_ledger
from deployments.ledger.client import LedgerClient
from deployments.models.accounting import AccountedRequest, RequestAccounting
from deployments.models.capabilities import PublishedCapabilities
from deployments.models.engine_loading import load_engine
from deployments.models.fair_queue import FairQueue
from deployments.models.leases import Leases
from deployments.models.pending_steps import PendingSteps
from deployments.models.replica import ModelReplica
from deployments.transport.token_channel import StreamWriter


class DiffusionReplica(ModelReplica[DiffusionArgs]):
    """Serves one model to the ingress replicas."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, args: DiffusionArgs
    ) -> None:
        """Load the model."""
        self._engine = load_engine(args, partial(_build_engine, args))
        self._leases = Leases(
            {"generate": (ImageRequest, self._generate), "stream": (ImageRequest, self._stream)}
        )
        self._steps = PendingSteps(args.engine)
        self._capabilities = PublishedCapabilities(args, self._engine, self.cluster_store)
        self._args = LiveArgs(args)
        self._queue = FairQueue(self._engine.capacity, args.max_waiting)
        ledger = LedgerClient(find_ledger)
        self._accounting = RequestAccounting(args.id, "diffusion", self._queue, ledger)
        await self._capabilities.publish()

    async def _generate(self, request: ImageRequest, writer: StreamWriter) -> Images:
        """Generate all images."""
        async with self._track(request, writer) as progress:
            with writer, self._steps.counting(request, progress):
                return await self._engine.generate(request, progress)

    async def _stream(self, request: ImageRequest, writer: StreamWriter) -> Images:
        """Generate all images, and send the progress of every step."""
        async with self._track(request, writer) as progress:
            with writer, self._steps.counting(request, progress):
                try:
                    return await self._engine.generate(request, progress, writer.send_unbatched)
                finally:
                    progress.first_s = writer.first_s

    def _track(
        self, request: ImageRequest, writer: StreamWriter
    ) -> AbstractAsyncContextManager[AccountedRequest]:
        return self._accounting.track(
            request.request_id, request.context, on_waiting=writer.send_waiting
        )

    async def record_autoscaling_stats(self) -> dict[str, int]:
        """The metric that Serve polls and passes to `QueuedImageSteps`."""
        return {IMAGE_STEPS: self._steps.total}

    async def stats(self) -> dict[str, int]:
        """Counts of open requests; all but `pid`, `sockets` and `tasks` are 0 at rest."""
        return {
            "pid": os.getpid(),
            **self._leases.stats(),
            "steps": self._steps.total,
            **self._accounting.stats(),
            "tasks": len(asyncio.all_tasks()),
        }

    def check_health(self) -> None:
        """Raise if the engine does not work; Serve then replaces the replica."""
        self._engine.check_health()

    def __del__(self) -> None:
        """End the engine's thread with the replica; its constructor may have failed half-way."""
        if hasattr(self, "_accounting"):
            self._leases.shut_down()
            self._engine.shut_down()
            self._capabilities.shut_down()
            self._accounting.shut_down()


def _build_engine(args: DiffusionArgs, folder: str | None) -> DiffusionEngine:
    if folder is None:
        return FakeDiffusionEngine()
    pipelines = Pipelines(folder, args.engine, args.trust)
    return DiffusersEngine(pipelines, args.engine, args.id, args.stall_timeout_s)


Diffusion = serve.deployment(
    name="Diffusion",
    # Requests wait in the replica's fair queue, up to `max_waiting`, and not in Serve.
    max_ongoing_requests=2048,
    max_queued_requests=256,
    max_constructor_retry_count=1,
    # A frozen replica is replaced after three failed checks, within 20 s.
    health_check_period_s=2,
    health_check_timeout_s=3,
    max_surge_percent=100,  # a new version must run before the old one stops
    graceful_shutdown_timeout_s=660,  # above the ingress's request_timeout_s: images finish
)(DiffusionReplica)
