"""Replica of the HTTP API: builds the application, and connects it to the models and the ledger."""

import asyncio
import contextlib
import gc
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial

from ray import serve
from starlette.applications import Starlette

from api.app import create_app
from api.http.draining import Draining
from api.registry import Models
from api.services import Services
from deployments.config.ingress import IngressArgs
from deployments.config.user_config import LiveArgs, Reconfigurable
from deployments.discovery import fetch_details
from deployments.home import DRAIN_FOLDER, find_home
from deployments.ingress.drain_watch import watch_for_drain
from deployments.ingress.http_port import guard_http_ports
from deployments.ingress.image_fetcher import HttpsImages
from deployments.ingress.image_store import ImageFolder
from deployments.ingress.key_source import KeySource, NoApiKeysError
from deployments.ingress.ledger_administration import LedgerAdministration
from deployments.ingress.model_watcher import ModelWatcher
from deployments.ingress.prompt_log import PromptFiles
from deployments.ingress.rate_limiter import LedgerLimiter
from deployments.ingress.ray_cluster import RayCluster
from deployments.ingress.serve_details import PushedDetails
from deployments.ingress.shared_look import SharedLook
from deployments.ingress.trailers import ignore_trailers
from deployments.ledger.address import find_ledger
from deployments.ledger.client import LedgerClient
from deployments.ledger.pepper import load_pepper, to_cache_salt
from deployments.observability.logs import configure_logs
from deployments.serve_look import ServeLook
from deployments.transport.cluster_store import GcsStore
from deployments.transport.replica_ports import listen_at_own_address_only
from deployments.transport.request_channel import RequestSender
from deployments.transport.token_channel import Receiver

logger = logging.getLogger(__name__)

_AUDIT_INTERVAL_S = 10.0
_KEYS_TIMEOUT_S = 10.0
_OBJECTS_PER_COLLECTION = 50_000
"""At Python's default of 700, parsing a large JSON body takes three times as long, all of it on
the event loop."""


class IngressReplica(Reconfigurable[IngressArgs]):
    """Serves the HTTP API; the work before and after each request is done in `_lifespan`."""

    def __init__(self, args: IngressArgs) -> None:
        """Read the environment's keys. What needs the event loop is made in `_lifespan`."""
        configure_logs()
        gc.set_threshold(_OBJECTS_PER_COLLECTION)
        ignore_trailers()
        guard_http_ports()
        listen_at_own_address_only()
        self._args = LiveArgs(args)
        self._poll_interval_s = args.poll_interval_s
        self._pepper = load_pepper()
        self._keys = KeySource(self._pepper) if args.auth.required else None
        self._prompt_log = PromptFiles(args.prompt_log) if args.prompt_log else None
        self._image_store = ImageFolder(args.image_store) if args.image_store else None
        self._models = Models()
        self._draining = Draining()
        self._services = self._build_services(args)
        self._receiver: Receiver
        self._sender: RequestSender
        self._watcher: ModelWatcher
        self._ledger: LedgerClient
        self._details: PushedDetails

    def __serve_build_asgi_app__(self) -> Starlette:
        """Build the application; Serve calls this inside the replica."""
        return create_app(
            self._models,
            self._keys.keys if self._keys else None,
            self._services,
            administration=LedgerAdministration(lambda: self._watcher.ledger),
            lifespan=self._lifespan,
            # Serve adds the request id to every response, even if the application has set one
            # (ray/serve/_private/http_util.py: RequestIdMiddleware).
            is_request_id_echoed=True,
        )

    def _apply(self, args: IngressArgs) -> None:
        self._services.limits = args.limits
        self._services.policy = args.policy
        self._services.cold_start = args.cold_start
        self._services.image_fetcher = _to_image_fetcher(args)

    def _build_services(self, args: IngressArgs) -> Services:
        return Services(
            limits=args.limits,
            policy=args.policy,
            cold_start=args.cold_start,
            prompt_log=self._prompt_log,
            image_fetcher=_to_image_fetcher(args),
            limiter=LedgerLimiter(lambda: self._ledger),
            cache_salt=cache(partial(to_cache_salt, self._pepper)),
            image_store=self._image_store,
            draining=self._draining,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._receiver, self._sender = Receiver(), RequestSender()
        store = GcsStore()
        look = ServeLook(fetch_details, store)
        shared = SharedLook(look.fetch, store, interval_s=self._poll_interval_s)
        self._details = PushedDetails(shared)
        cluster = RayCluster(self._details.fetch)
        self._watcher = ModelWatcher(self._models, self._receiver, self._sender, cluster)
        update_keys = self._keys.update if self._keys else None
        find = partial(find_ledger, self._details.latest)
        self._ledger = LedgerClient(find, update_keys, self._details.update)
        if self._keys:
            self._ledger.on_disconnect = self._keys.mark_stale
        try:
            await self._refresh()
        except NoApiKeysError as error:
            logger.error("the ingress does not start: %s", error)
            raise
        self._ledger.start()
        if self._keys:  # Serve sends requests as soon as this replica is up, with any key
            await self._keys.wait_until_known(_KEYS_TIMEOUT_S)
        drain_folder = find_home() / DRAIN_FOLDER
        background = [
            asyncio.create_task(self._poll()),
            asyncio.create_task(self._audit()),
            asyncio.create_task(watch_for_drain(drain_folder, self._draining)),
        ]
        if self._image_store:
            background.append(asyncio.create_task(self._image_store.prune_periodically()))
        try:
            yield
        finally:
            for task in background:
                task.cancel()
            self._watcher.shut_down()
            self._ledger.shut_down()
            self._sender.shut_down()
            self._receiver.shut_down()
            if self._prompt_log:
                self._prompt_log.shut_down()

    async def _poll(self) -> None:
        while True:
            await self._details.wait_for_change(self._poll_interval_s)
            with contextlib.suppress(NoApiKeysError):  # every request gets 401 until keys appear
                await self._refresh()

    async def _refresh(self) -> None:
        await self._watcher.refresh()
        if self._keys and self._watcher.has_ledger is False and not self._keys.keys.is_known:
            self._keys.use_environment_only()

    async def _audit(self) -> None:
        """Report failed authentications to the audit log as a count per interval."""
        while self._keys:
            await asyncio.sleep(_AUDIT_INTERVAL_S)
            if failures := self._keys.pop_failures():
                logger.warning("%d requests came without a valid key", failures)
                self._ledger.audit("auth_failures", count=failures, seconds=_AUDIT_INTERVAL_S)

    async def stats(self) -> dict[str, int]:
        """Counts of what is open; all but `pid`, `dropped`, `sockets`, `tasks` are 0 at rest."""
        return {
            "pid": os.getpid(),
            "streams": len(self._receiver),
            "leases": self._watcher.idle_leases,
            "sockets": self._sender.peers,
            "dropped": self._receiver.dropped,
            "tasks": len(asyncio.all_tasks()),
            **self._ledger.stats(),
        }


def _to_image_fetcher(args: IngressArgs) -> HttpsImages | None:
    hosts = args.policy.image_hosts
    return HttpsImages(hosts) if hosts else None


Ingress = serve.deployment(
    name="Ingress",
    max_ongoing_requests=2000,
    max_constructor_retry_count=1,
    # A frozen replica is replaced after three failed checks, within 20 s.
    health_check_period_s=2,
    health_check_timeout_s=3,
    max_surge_percent=100,  # a new version must run before the old one stops
    graceful_shutdown_timeout_s=660,  # above request_timeout_s: streams finish
)(serve.ingress()(IngressReplica))
