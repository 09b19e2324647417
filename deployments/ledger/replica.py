"""Ray Serve's lifecycle around the one ledger: keys, limits and usage of the whole service.

Requests wait for the ledger only where their key has limits. It can be killed: everything it knows
is in a database, and limits are in a file beside it or in Redis.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import serve

from api.errors import UnavailableError
from deployments.config.ledger import LedgerArgs
from deployments.config.user_config import LiveArgs, Reconfigurable
from deployments.discovery import fetch_details
from deployments.home import find_home
from deployments.ledger.address import LedgerAddress
from deployments.ledger.audit_log import AuditLog
from deployments.ledger.config_audit import ConfigAudit
from deployments.ledger.key_publisher import KeyPublisher
from deployments.ledger.limits.accounts import Accounts
from deployments.ledger.limits.redis_url import find_redis_url
from deployments.ledger.limits.sqlite_state import SqliteState
from deployments.ledger.limits.store import LimitStore
from deployments.ledger.pepper import load_pepper
from deployments.ledger.recorder import Recorder
from deployments.ledger.retention import UsageRetention
from deployments.ledger.serve_watch import ServeWatch
from deployments.ledger.server import LedgerServer
from deployments.ledger.store.database import Database, default_url
from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.keys import KeyStore
from deployments.ledger.store.roll_up import roll_up
from deployments.ledger.store.usage import UsageStore
from deployments.observability.logs import configure_logs
from deployments.serve_look import ServeLook
from deployments.transport.cluster_store import GcsStore
from deployments.transport.replica_ports import close_replica_ports

logger = logging.getLogger(__name__)

_RESEED_INTERVAL_S = 300.0

_KEY_CHANGES = {"create_key", "change_key", "rotate_key", "delete_key"}


class LedgerReplica(Reconfigurable[LedgerArgs]):
    """Serves limits to the other replicas, and administrators through the ingress."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, args: LedgerArgs
    ) -> None:
        """Listen at once; clients are answered when the database has been read."""
        configure_logs()
        close_replica_ports()
        home = find_home()
        audit = AuditLog(Path(args.audit_log or home / "logs" / "audit.jsonl"))
        database = Database(args.database or default_url())
        self._keys = KeyStore(database, load_pepper(), audit)
        self._usage = UsageStore(database)
        redis_url = find_redis_url(args.redis)
        self._limits = _build_limits(redis_url, home)
        self._server = LedgerServer(self._limits, Recorder(self._limits, self._usage), audit)
        self._address = await self._server.listen(ray.util.get_node_ip_address())
        self._publisher = KeyPublisher(
            self._keys,
            self._usage,
            self._limits,
            self._server.publish,
            poll_interval_s=args.poll_interval_s,
            reseed_interval_s=_RESEED_INTERVAL_S if redis_url else None,
        )
        self._args = LiveArgs(args)
        self._retention = UsageRetention(
            self._keys.prepare, partial(roll_up, database), args.usage_retention_days
        )
        look = ServeLook(fetch_details, GcsStore())
        watch = ServeWatch(look.fetch, self._server.publish_details)
        self._tasks = [
            asyncio.create_task(self._publisher.run()),
            asyncio.create_task(watch.run()),
            asyncio.create_task(ConfigAudit(audit, watch.latest).run()),
            asyncio.create_task(self._retention.run()),
        ]

    def _apply(self, args: LedgerArgs) -> None:
        self._retention.days = args.usage_retention_days

    async def address(self) -> LedgerAddress:
        """Where clients connect, and with which token."""
        return self._address

    async def stats(self) -> dict[str, int]:
        """Counters of what is in flight; all but `pid` and `clients` are 0 at rest."""
        return {"pid": os.getpid(), **self._server.stats(), **await self._limits.stats()}

    async def administer(self, method: str, *arguments: Any) -> Any:
        """Call a method of `api.ports.administration.Administration` on the stores.

        A changed key is in force on all ingress replicas when this returns, or a moment later.

        Raises:
            UnavailableError: the database cannot be used.
            Others as the method.
        """
        store = self._usage if method == "report_usage" else self._keys
        async with _translating():
            result = await getattr(store, method)(*arguments)
            if method in _KEY_CHANGES:
                await self._publisher.load()
        return result

    def __del__(self) -> None:
        """End the tasks and connections with the replica."""
        for task in getattr(self, "_tasks", []):
            task.cancel()
        if hasattr(self, "_server"):
            self._server.shut_down()


def _build_limits(redis_url: str | None, home: Path) -> LimitStore:
    if redis_url is None:
        return Accounts(SqliteState(home / "limits.db"))
    # Here, because the driver takes 0.3 s and 9 MiB to import, and few ledgers use it.
    from deployments.ledger.limits.redis_accounts import RedisAccounts, connect

    return RedisAccounts(connect(redis_url))


@asynccontextmanager
async def _translating() -> AsyncIterator[None]:
    try:
        yield
    except StoreError as error:
        logger.error("the database cannot be used: %s", error)
        raise UnavailableError(
            "Keys and usage cannot be reached at the moment; try again."
        ) from None


Ledger = serve.deployment(
    name="Ledger",
    num_replicas=1,  # each replica would keep limits of its own
    max_ongoing_requests=100,
    # There may be only one: without a surge the old one stops before the new one starts.
    max_surge_percent=0,
    health_check_period_s=2,
    health_check_timeout_s=5,
    graceful_shutdown_timeout_s=5,
)(LedgerReplica)
