"""One replica of the HTTP face: finds the models, the keys and the ledger, and answers for them."""

import asyncio
import contextlib
import gc
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import ray
import zmq
from ray import serve
from starlette.applications import Starlette

from api.app import create_app
from api.registry import Backend, ModelEntry, Models, Registry, TextOptions
from api.services import Services
from deployments.config.ingress import IngressArgs
from deployments.discovery import (
    DEPLOYMENTS,
    LEDGER,
    DiscoveredModel,
    fetch_details,
    find_ledger_application,
    find_nodes,
    to_models,
)
from deployments.ingress.handles import DiffusionHandle, EmbeddingHandle, LlmHandle, call
from deployments.ingress.image_fetcher import HttpsImages
from deployments.ingress.image_store import ImageFolder
from deployments.ingress.key_source import KeySource, NoApiKeysError
from deployments.ingress.ledger_administration import LedgerAdministration
from deployments.ingress.model_capabilities import ModelCapabilities
from deployments.ingress.prompt_log import PromptFiles
from deployments.ingress.rate_limiter import LedgerLimiter
from deployments.ingress.text_options import to_text_options
from deployments.ledger.address import find_ledger
from deployments.ledger.client import LedgerClient
from deployments.ledger.pepper import load_pepper, to_cache_salt
from deployments.observability.logs import configure_logs
from deployments.transport.token_channel import Receiver

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)

_REPORT_S = 10.0
_KEYS_TIMEOUT_S = 10.0
_OBJECTS_PER_COLLECTION = 50_000
"""With Python's 700 a large body of JSON takes three times as long, all of it on the event loop."""


class IngressReplica:
    """Builds the application around a registry that one background task keeps up to date."""

    def __init__(self, args: IngressArgs) -> None:
        """Read the keys of the environment."""
        configure_logs()
        gc.set_threshold(_OBJECTS_PER_COLLECTION)
        self._args = args
        self._pepper = load_pepper()
        self._keys = KeySource(self._pepper) if args.auth.required else None
        self._link: LedgerClient | None = None
        self._ledger: DeploymentHandle[Any] | None = None
        self._prompt_log = PromptFiles(args.prompt_log) if args.prompt_log else None
        self._image_store = ImageFolder(args.image_store) if args.image_store else None
        self._models = Models()
        self._backends: dict[tuple[str, str], Backend] = {}
        self._capabilities = ModelCapabilities(_fetch_capabilities)

    def __serve_build_asgi_app__(self) -> Starlette:
        """Called by Serve inside the replica; everything it needs is there by then."""
        return create_app(
            self._models,
            self._keys.keys if self._keys else None,
            self._to_rules(),
            administration=LedgerAdministration(lambda: self._ledger),
            lifespan=self._lifespan,
            # Serve puts a request id into the request and appends it to the response, whatever the
            # application has written (ray/serve/_private/http_util.py: RequestIdMiddleware).
            is_request_id_echoed=True,
        )

    def _to_rules(self) -> Services:
        policy = self._args.policy
        fetcher = HttpsImages(policy.image_hosts) if policy.image_hosts else None
        return Services(
            limits=self._args.limits,
            policy=policy,
            prompt_log=self._prompt_log,
            image_fetcher=fetcher,
            limiter=LedgerLimiter(lambda: self._link),
            cache_salt=cache(partial(to_cache_salt, self._pepper)),
            image_store=self._image_store,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._receiver = Receiver()
        self._is_on_one_node = True
        self._link = LedgerClient(find_ledger, self._keys.take if self._keys else None)
        if self._keys:
            self._link.on_disconnect = self._keys.mark_stale
        try:
            await self._look_up_models()
        except NoApiKeysError as error:
            logger.error("the ingress does not start: %s", error)
            raise
        self._link.start()
        if self._keys:  # requests come as soon as this replica is up, beside others that know them
            await self._keys.wait_until_known(_KEYS_TIMEOUT_S)
        background = [asyncio.create_task(self._poll()), asyncio.create_task(self._report())]
        if self._image_store:
            background.append(asyncio.create_task(self._image_store.tidy()))
        try:
            yield
        finally:
            for task in background:
                task.cancel()
            self._capabilities.shut_down()
            self._link.shut_down()
            self._receiver.shut_down()
            if self._prompt_log:
                self._prompt_log.shut_down()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._args.poll_interval_s)
            with contextlib.suppress(NoApiKeysError):  # nobody gets in, and that is that
                await self._look_up_models()

    async def _report(self) -> None:
        """Tell the audit log how many requests were refused for their key: not each of them."""
        while self._keys and self._link:
            await asyncio.sleep(_REPORT_S)
            if failures := self._keys.pop_failures():
                logger.warning("%d requests came without a valid key", failures)
                self._link.audit("auth_failures", count=failures, seconds=_REPORT_S)

    async def _look_up_models(self) -> None:
        try:
            details = await fetch_details()
            discovered = list(to_models(details))
            # In a thread: it looks into folders, which may be on another machine.
            texts = await asyncio.to_thread(lambda: [to_text_options(each) for each in discovered])
        except Exception:  # the controller restarts now and then; what was known goes on serving
            logger.exception("the models could not be looked up; keeping those known before")
            return
        self._find_ledger(details)
        self._listen_to(find_nodes(details))
        names = {(model.application, model.kind) for model in discovered}
        self._backends = {key: value for key, value in self._backends.items() if key in names}
        self._capabilities.retain(discovered)
        entries = map(self._to_entry, discovered, texts)
        self._models.swap(Registry(entries))

    def _find_ledger(self, details: Mapping[str, Any]) -> None:
        """Know where administrators' wishes go.

        Raises:
            NoApiKeysError: there is no ledger, and no key of the environment either.
        """
        name = find_ledger_application(details)
        if name is None:
            self._ledger = None
            if self._keys and not self._keys.keys.is_known:
                self._keys.use_environment_only()
        elif self._ledger is None:
            self._ledger = serve.get_deployment_handle(LEDGER, app_name=name, _check_exists=False)

    def _listen_to(self, nodes: set[str]) -> None:
        """Be within reach of the models: on loopback, until one runs on another node."""
        if self._is_on_one_node and nodes - {ray.get_runtime_context().get_node_id()}:
            address = ray.util.get_node_ip_address()
            try:
                self._receiver.listen_at(address)
                self._is_on_one_node = False
            except zmq.ZMQError:  # tried again with the next look
                logger.exception("cannot listen at %s: other nodes' models cannot stream", address)

    async def stats(self) -> dict[str, int]:
        """What is under way here; all but `pid`, `dropped` and `tasks` are 0 at rest."""
        return {
            "pid": os.getpid(),
            "streams": len(self._receiver),
            "dropped": self._receiver.dropped,
            "tasks": len(asyncio.all_tasks()),
            **(self._link.stats() if self._link else {}),
        }

    def _to_entry(self, model: DiscoveredModel, text: TextOptions) -> ModelEntry:
        return ModelEntry(
            id=model.id,
            kind=model.kind,
            state=model.state,
            backend=self._get_backend(model),
            created_s=model.deployed_at_s,
            message=model.message,
            text=text,
            capabilities=self._capabilities.get(model),
        )

    def _get_backend(self, model: DiscoveredModel) -> Backend:
        """The handle of a model; made once, for each has a router and metrics of its own."""
        key = (model.application, model.kind)
        if key not in self._backends:
            handle = _to_handle(model)
            self._backends[key] = (
                LlmHandle(handle, self._receiver)
                if model.kind == "llm"
                else EmbeddingHandle(handle)
                if model.kind == "embedding"
                else DiffusionHandle(handle, self._receiver)
            )
        return self._backends[key]


def _to_handle(model: DiscoveredModel) -> "DeploymentHandle[Any]":
    return serve.get_deployment_handle(
        DEPLOYMENTS[model.kind], app_name=model.application, _check_exists=False
    )


async def _fetch_capabilities(model: DiscoveredModel) -> Mapping[str, Any]:
    capabilities: Mapping[str, Any] = await call(_to_handle(model).capabilities)
    return capabilities


Ingress = serve.deployment(
    name="Ingress",
    max_ongoing_requests=2000,
    max_constructor_retry_count=1,
    health_check_period_s=5,
    graceful_shutdown_timeout_s=660,  # above request_timeout_s: streams finish
)(serve.ingress()(IngressReplica))
