"""The one replica that knows what every key has used: Ray's lifecycle around keys, limits, usage.

Nothing of a request waits for it but the limits of its key; it can be killed and comes back as it
was. Keys and usage are in a database, limits beside it or in Redis.
"""

import asyncio
import hashlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
from ray import serve

from api.errors import UnavailableError
from api.ports.administration import NewSecret, UsageQuery, UsageRow
from api.ports.tenancy import Key
from deployments.config.ledger import LedgerArgs
from deployments.discovery import fetch_details
from deployments.home import find_home
from deployments.ledger.address import LedgerAddress
from deployments.ledger.audit_log import AuditLog
from deployments.ledger.limits.store import LimitStore
from deployments.ledger.pepper import load_pepper, to_pepper_fingerprint
from deployments.ledger.protocol import KeySet
from deployments.ledger.server import LedgerServer
from deployments.ledger.store.database import Database, default_url
from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.keys import KeyStore
from deployments.ledger.store.usage import UsageStore
from deployments.observability.logs import configure_logs

logger = logging.getLogger(__name__)

_CONFIG_INTERVAL_S = 5.0
_KEYS_TIMEOUT_S = 5.0
_SEED_AGAIN_S = 300.0


class LedgerReplica:
    """Serves keys and limits to the other replicas, and administrators through the ingress."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, args: LedgerArgs
    ) -> None:
        """Listen at once; keys and usage follow when the database answers."""
        configure_logs()
        home = find_home()
        pepper = load_pepper()
        self._args = args
        self._audit = AuditLog(Path(args.audit_log or home / "logs" / "audit.jsonl"))
        self._database = Database(args.database or default_url())
        self._keys = KeyStore(self._database, pepper, self._audit)
        self._usage = UsageStore(self._database)
        self._limits = _build_limits(args, home)
        self._pepper_fingerprint = to_pepper_fingerprint(pepper)
        self._key_set = KeySet([], self._pepper_fingerprint)
        self._version: int | None = None
        self._server = LedgerServer(self._limits, self._usage, self._audit)
        self._address = await self._server.listen(ray.util.get_node_ip_address())
        self._config_hash = ""
        self._tasks = [
            asyncio.create_task(self._follow_keys()),
            asyncio.create_task(self._follow_config()),
        ]

    async def address(self) -> LedgerAddress:
        """Where to connect to, and with which ticket."""
        return self._address

    async def stats(self) -> dict[str, int]:
        """What is under way here; all but `pid` and `callers` are 0 at rest."""
        return {"pid": os.getpid(), **self._server.stats(), **await self._limits.stats()}

    async def create_key(self, fields: Mapping[str, Any]) -> NewSecret:
        """Make a key; in force on all ingress replicas when this returns, or a moment later."""
        async with self._changing_keys():
            return await self._keys.create_key(fields)

    async def list_keys(self) -> Sequence[Key]:
        """All keys."""
        async with _translating():
            return await self._keys.list_keys()

    async def get_key(self, id_or_name: str) -> Key:
        """One key."""
        async with _translating():
            return await self._keys.get_key(id_or_name)

    async def change_key(self, id_or_name: str, changes: Mapping[str, Any]) -> Key:
        """Replace some fields."""
        async with self._changing_keys():
            return await self._keys.change_key(id_or_name, changes)

    async def rotate_key(self, id_or_name: str, grace_s: float) -> NewSecret:
        """Give it a new secret."""
        async with self._changing_keys():
            return await self._keys.rotate_key(id_or_name, grace_s)

    async def delete_key(self, id_or_name: str) -> None:
        """Forget it."""
        async with self._changing_keys():
            await self._keys.delete_key(id_or_name)

    async def report_usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Sums of what is recorded."""
        async with _translating():
            return await self._usage.report_usage(query)

    @asynccontextmanager
    async def _changing_keys(self) -> AsyncIterator[None]:
        async with _translating():
            yield
            await self._load_keys()

    async def _follow_keys(self) -> None:
        """Publish keys as they change, and that they cannot be read when they cannot."""
        is_prepared, seeded_s = False, 0.0
        while True:
            try:
                if not is_prepared:
                    await self._database.migrate()
                    await self._keys.check_pepper()
                    await self._limits.set_spent(await self._usage.tokens_spent(time.time()))
                    is_prepared = True
                    seeded_s = time.monotonic()
                elif self._args.redis and time.monotonic() - seeded_s > _SEED_AGAIN_S:
                    # It keeps the larger number: what was lost with a Redis comes back.
                    await self._limits.set_spent(await self._usage.tokens_spent(time.time()))
                    seeded_s = time.monotonic()
                async with asyncio.timeout(_KEYS_TIMEOUT_S):
                    if await self._keys.version() != self._version or self._key_set.note:
                        await self._load_keys()
            except StoreError as error:
                self._note_trouble(str(error))
            except TimeoutError:
                self._note_trouble("the database does not answer")
            except Exception:  # whatever it is, keys must go on being followed
                logger.exception("the keys cannot be followed; trying again")
                self._note_trouble("something unexpected")
            await asyncio.sleep(self._args.poll_interval_s)

    async def _load_keys(self) -> None:
        version = await self._keys.version()  # first: what changes meanwhile is seen next time
        stored = await self._keys.list_stored()
        await self._limits.set_limits({each.key.id: each.key.limits for each in stored})
        self._version = version
        self._key_set = KeySet(stored, self._pepper_fingerprint)
        self._server.publish(self._key_set)
        logger.info("%d keys are in force", len(stored))

    def _note_trouble(self, reason: str) -> None:
        """Say once that the keys may be out of date; before the first time there are none."""
        if self._version is None:
            logger.error("the keys cannot be read, and nobody gets in with one: %s", reason)
            self._server.publish(None)
        elif self._key_set.note is None:
            logger.error("the keys cannot be read; those known before hold: %s", reason)
            since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
            note = f"the key store cannot be read since {since}; the keys known then hold"
            self._key_set = KeySet(self._key_set.keys, self._pepper_fingerprint, note)
            self._server.publish(self._key_set)

    async def _follow_config(self) -> None:
        """Write to the audit log when another configuration is in force."""
        while True:
            try:
                applications = (await fetch_details())["applications"]
                config = [each.get("deployed_app_config") for each in applications.values()]
                text = json.dumps(config, sort_keys=True, default=str)
                digest = hashlib.sha256(text.encode()).hexdigest()
                if digest != self._config_hash:
                    self._audit.write("config_loaded", hash=digest, before=self._config_hash)
                    self._config_hash = digest
            except Exception:  # the controller restarts now and then
                logger.debug("the configuration cannot be looked up", exc_info=True)
            await asyncio.sleep(_CONFIG_INTERVAL_S)

    def __del__(self) -> None:
        """End the connections with the replica."""
        for task in getattr(self, "_tasks", []):
            task.cancel()
        if hasattr(self, "_server"):
            self._server.shut_down()


def _build_limits(args: LedgerArgs, home: Path) -> LimitStore:
    if args.redis is not None:
        from deployments.ledger.limits.redis_accounts import RedisAccounts

        return RedisAccounts(args.redis)
    from deployments.ledger.limits.accounts import Accounts
    from deployments.ledger.limits.sqlite_state import SqliteState
    from deployments.ledger.limits.store import LocalStore

    state = SqliteState(home / "limits.db")
    return LocalStore(Accounts(state), state)


@asynccontextmanager
async def _translating() -> AsyncIterator[None]:
    try:
        yield
    except StoreError as error:
        logger.error("the database does not answer: %s", error)
        raise UnavailableError(
            "Keys and usage cannot be reached at the moment; try again."
        ) from None


Ledger = serve.deployment(
    name="Ledger",
    num_replicas=1,  # more would each keep limits of their own
    max_ongoing_requests=100,
    health_check_period_s=2,
    health_check_timeout_s=5,
    graceful_shutdown_timeout_s=5,
)(LedgerReplica)
