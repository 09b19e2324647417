"""One replica of the HTTP face: finds the models, and answers for them."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import ray
import zmq
from ray import serve
from starlette.applications import Starlette

from api.app import create_app
from api.backends import Backend
from api.registry import ModelEntry, Models, Registry, TextOptions
from api.rules import Rules
from deployments.config import IngressArgs
from deployments.discovery import (
    DEPLOYMENTS,
    DiscoveredModel,
    fetch_details,
    find_nodes,
    to_models,
)
from deployments.handles import DiffusionHandle, EmbeddingHandle, LlmHandle
from deployments.image_fetcher import HttpsImages
from deployments.keys import NoApiKeys, load_api_keys
from deployments.logs import configure_logs
from deployments.prompt_log import PromptFiles
from deployments.text_options import to_text_options
from deployments.token_channel import Receiver

logger = logging.getLogger(__name__)


class IngressReplica:
    """Builds the application around a registry that one background task keeps up to date."""

    def __init__(self, args: IngressArgs) -> None:
        """Read the keys.

        Raises:
            NoApiKeys: authentication is on, and there is none.
        """
        configure_logs()
        self._args = args
        try:
            self._keys = load_api_keys(args.auth)
        except NoApiKeys as error:
            logger.error("the ingress does not start: %s", error)
            raise
        self._prompt_log = PromptFiles(args.prompt_log) if args.prompt_log else None
        self._models = Models()
        self._backends: dict[tuple[str, str], Backend] = {}

    def __serve_build_asgi_app__(self) -> Starlette:
        """Called by Serve inside the replica; everything it needs is there by then."""
        return create_app(
            self._models,
            self._keys,
            self._to_rules(),
            lifespan=self._lifespan,
            # Serve puts a request id into the request and appends it to the response, whatever the
            # application has written (ray/serve/_private/http_util.py: RequestIdMiddleware).
            is_request_id_echoed=True,
        )

    def _to_rules(self) -> Rules:
        policy = self._args.policy
        fetcher = HttpsImages(policy.image_hosts) if policy.image_hosts else None
        return Rules(self._args.limits, policy, self._prompt_log, fetcher)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._receiver = Receiver()
        self._is_on_one_node = True
        await self._look_up_models()
        polling = asyncio.create_task(self._poll())
        try:
            yield
        finally:
            polling.cancel()
            self._receiver.shut_down()
            if self._prompt_log:
                self._prompt_log.shut_down()

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._args.poll_interval_s)
            await self._look_up_models()

    async def _look_up_models(self) -> None:
        try:
            details = await fetch_details()
            discovered = list(to_models(details))
            # In a thread: it looks into folders, which may be on another machine.
            texts = await asyncio.to_thread(lambda: [to_text_options(each) for each in discovered])
        except Exception:  # the controller restarts now and then; what was known goes on serving
            logger.exception("the models could not be looked up; keeping those known before")
            return
        self._listen_to(find_nodes(details))
        names = {(model.application, model.kind) for model in discovered}
        self._backends = {key: value for key, value in self._backends.items() if key in names}
        entries = map(self._to_entry, discovered, texts)
        self._models.swap(Registry(entries))

    def _listen_to(self, nodes: set[str]) -> None:
        """Be within reach of the models: on loopback, until one runs on another node."""
        if self._is_on_one_node and nodes - {ray.get_runtime_context().get_node_id()}:
            address = ray.util.get_node_ip_address()
            try:
                self._receiver.listen_at(address)
                self._is_on_one_node = False
            except zmq.ZMQError:  # tried again with the next look
                logger.exception("cannot listen at %s: other nodes' models cannot stream", address)

    async def counts(self) -> dict[str, int]:
        """What is under way here; all but `pid`, `dropped` and `tasks` are 0 at rest."""
        return {
            "pid": os.getpid(),
            "streams": len(self._receiver),
            "dropped": self._receiver.dropped,
            "tasks": len(asyncio.all_tasks()),
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
        )

    def _get_backend(self, model: DiscoveredModel) -> Backend:
        """The handle of a model; made once, for each has a router and metrics of its own."""
        key = (model.application, model.kind)
        if key not in self._backends:
            handle = serve.get_deployment_handle(
                DEPLOYMENTS[model.kind], app_name=model.application, _check_exists=False
            )
            self._backends[key] = (
                LlmHandle(handle, self._receiver)
                if model.kind == "llm"
                else EmbeddingHandle(handle)
                if model.kind == "embedding"
                else DiffusionHandle(handle)
            )
        return self._backends[key]


Ingress = serve.deployment(
    name="Ingress",
    max_ongoing_requests=2000,
    max_constructor_retry_count=1,
    health_check_period_s=5,
    graceful_shutdown_timeout_s=660,  # above request_timeout_s: streams finish
)(serve.ingress()(IngressReplica))
