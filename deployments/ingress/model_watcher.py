"""Keeps one ingress replica up to date with Serve: models, leases and the ledger's handle."""

import asyncio
import logging
from collections.abc import Awaitable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import zmq

from api.ports.tenancy import ModelKind
from api.registry import Backend, ModelEntry, Models, Registry, TextOptions, model_failed
from deployments.discovery import (
    DEPLOYMENTS,
    LEDGER,
    DiscoveredModel,
    find_ledger_application,
    find_nodes,
    keep_version,
    to_models,
)
from deployments.ingress.handles import DiffusionHandle, EmbeddingHandle, LlmHandle
from deployments.ingress.leases import LeasePool
from deployments.ingress.live_arguments import keep_valid_user_config
from deployments.ingress.load_times import LoadTimes
from deployments.ingress.text_options import to_text_options
from deployments.transport.request_channel import RequestSender
from deployments.transport.token_channel import Receiver

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)


class Cluster(Protocol):
    """What the watcher needs of Ray."""

    node_id: str
    """Id of the node that this replica runs on."""

    def fetch_details(self) -> Awaitable[Mapping[str, Any]]:
        """Fetch Serve's details of all applications; see `deployments.discovery`."""

    def get_handle(self, deployment: str, application: str) -> "DeploymentHandle[Any]":
        """A handle to a deployment, which need not be running."""

    def get_address(self) -> str:
        """The IP address of this replica's node, as other nodes reach it."""


class ModelWatcher:
    """Swaps a new registry in with every refresh, and holds what must outlive a registry."""

    def __init__(
        self, models: Models, receiver: Receiver, sender: RequestSender, cluster: Cluster
    ) -> None:
        """Start with no models known.

        Args:
            models: where new registries are swapped in.
            receiver: gets the deltas and results of all models.
            sender: sends the further requests of leases.
            cluster: Ray, as seen from this replica.
        """
        self._models = models
        self._receiver = receiver
        self._sender = sender
        self._cluster = cluster
        self._backends: dict[tuple[str, ModelKind], tuple[LeasePool, Backend]] = {}
        self._discovered: dict[str, DiscoveredModel] = {}
        self._load_times = LoadTimes()
        self._is_on_loopback_only = True
        self.ledger: DeploymentHandle[Any] | None = None
        self.has_ledger: bool | None = None
        """None until Serve has been asked successfully."""

    async def refresh(self) -> None:
        """Ask Serve once; if that fails, keep what was known before."""
        try:
            details = await self._cluster.fetch_details()
            discovered = list(map(self._keep_version, to_models(details)))
            # In a thread: it lists adapter folders, which may be on a network file system.
            options = await asyncio.to_thread(lambda: list(map(to_text_options, discovered)))
        except Exception:  # the controller restarts now and then
            logger.exception("the models could not be looked up; keeping those known before")
            return
        self._update_ledger(find_ledger_application(details))
        self._listen_to(find_nodes(details))
        self._log_failures(discovered)
        self._discovered = {model.application: model for model in discovered}
        self._load_times.update(discovered)
        self._retain(discovered)
        self._models.swap(Registry(map(self._to_entry, discovered, options)))

    def shut_down(self) -> None:
        """Close all idle leases."""
        for pool, _ in self._backends.values():
            pool.shut_down()

    @property
    def idle_leases(self) -> int:
        """Number of open calls of replicas that serve no request at the moment."""
        return sum(len(pool) for pool, _ in self._backends.values())

    def _update_ledger(self, application: str | None) -> None:
        self.has_ledger = application is not None
        if application is None:
            self.ledger = None
        elif self.ledger is None:
            self.ledger = self._cluster.get_handle(LEDGER, application)

    def _listen_to(self, nodes: set[str]) -> None:
        """Listen on loopback only, until a replica runs on another node."""
        if not self._is_on_loopback_only or nodes <= {self._cluster.node_id}:
            return
        address = self._cluster.get_address()
        try:
            self._receiver.listen_at(address)
            self._is_on_loopback_only = False
        except zmq.ZMQError:  # the next refresh tries again
            logger.exception("cannot listen at %s: models on other nodes cannot stream", address)

    def _keep_version(self, model: DiscoveredModel) -> DiscoveredModel:
        before = self._discovered.get(model.application)
        return keep_valid_user_config(keep_version(model, before), before)

    def _log_failures(self, discovered: Sequence[DiscoveredModel]) -> None:
        """Log why a version cannot be deployed, once."""
        for model in discovered:
            before = self._discovered.get(model.application)
            if model.message and (before is None or before.message != model.message):
                logger.error("model '%s' (%s): %s", model.id, model.state, model.message)

    def _retain(self, discovered: Sequence[DiscoveredModel]) -> None:
        keys = {(model.application, model.kind) for model in discovered}
        self._backends = {key: value for key, value in self._backends.items() if key in keys}

    def _to_entry(self, model: DiscoveredModel, text: TextOptions) -> ModelEntry:
        return ModelEntry(
            id=model.id,
            kind=model.kind,
            state=model.state,
            backend=self._get_backend(model),
            created_s=model.deployed_at_s,
            message=self._load_times.describe(model) or model.message,
            starting_since_s=self._load_times.find_start_s(model),
            load_time_s=self._load_times.find_load_time_s(model),
            text=text,
            capabilities=model.capabilities,
        )

    def _get_backend(self, model: DiscoveredModel) -> Backend:
        """Return the model's backend, made once; most handles are made for the first request.

        Its leases are told which replicas are running now, or that none will.
        """
        key = (model.application, model.kind)
        if key not in self._backends:
            name = DEPLOYMENTS[model.kind]
            find_handle = partial(self._cluster.get_handle, name, model.application)
            pool = LeasePool(find_handle, self._receiver, self._sender)
            self._backends[key] = pool, _to_backend(model.kind, pool)
        pool, backend = self._backends[key]
        if model.replicas is not None:
            pool.set_replicas(model.replicas)
        if model.is_autoscaled and model.state == "ready":
            pool.prepare()
        if model.state == "failed":
            pool.give_up_waiting(model_failed(model.id))
        return backend


def _to_backend(kind: ModelKind, pool: LeasePool) -> Backend:
    match kind:
        case "llm":
            return LlmHandle(pool)
        case "embedding":
            return EmbeddingHandle(pool)
        case "diffusion":
            return DiffusionHandle(pool)
