"""What the replicas of all kinds of models share: how they are called, and how they change."""

from typing import Any, ClassVar, TypeVar

from deployments.config.base import ModelArgs
from deployments.config.user_config import Reconfigurable
from deployments.models.capabilities import PublishedCapabilities
from deployments.models.fair_queue import FairQueue
from deployments.models.leases import Leases
from deployments.transport.cluster_store import ClusterStore, GcsStore
from deployments.transport.token_messages import ReplyTo, StreamEnd

Arguments = TypeVar("Arguments", bound=ModelArgs)


class ModelReplica(Reconfigurable[Arguments]):
    """A replica that ingress replicas call by leases."""

    _leases: Leases
    _queue: FairQueue
    _capabilities: PublishedCapabilities

    cluster_store: ClassVar[ClusterStore] = GcsStore()
    """Where it writes what its engine can do; only tests have another one."""

    async def lease(
        self, lease_id: bytes, method: str, request: Any, reply_to: ReplyTo
    ) -> StreamEnd[Any] | None:
        """Answer requests of one ingress replica; cancelling the call ends the one that is running.

        Args:
            lease_id: secret of the lease.
            method: name of the first request's method, among those of `Leases`.
            request: the first request.
            reply_to: where its deltas and its result go.

        Returns, raises: see `Leases.serve`.
        """
        return await self._leases.serve(lease_id, method, request, reply_to)

    def _apply(self, args: Arguments) -> None:
        self._queue.max_waiting = args.max_waiting
        self._capabilities.update()
