"""Follows the keys in the database, and publishes them to the ledger's clients as they change."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from deployments.ledger.limits.store import LimitStore
from deployments.ledger.protocol import KeySet
from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.keys import KeyStore
from deployments.ledger.store.usage import UsageStore

logger = logging.getLogger(__name__)

_READ_TIMEOUT_S = 5.0

Publish = Callable[[KeySet | None], None]
"""Receives the keys; None if they have never been read."""


class KeyPublisher:
    """Publishes keys and sets their limits and quotas; retries for ever if the database is away."""

    def __init__(
        self,
        keys: KeyStore,
        usage: UsageStore,
        limits: LimitStore,
        publish: Publish,
        *,
        poll_interval_s: float,
        reseed_interval_s: float | None = None,
    ) -> None:
        """Follow `keys`.

        Args:
            keys: the database's keys.
            usage: the recorded usage, which quotas start from.
            limits: receives the keys' limits and quota usage.
            publish: receives the keys when they have changed or may be out of date.
            poll_interval_s: pause between two looks for changes.
            reseed_interval_s: how often quota usage is set again; for a shared store, which keeps
                the larger number and so recovers what a restarted Redis has lost.
        """
        self._keys = keys
        self._usage = usage
        self._limits = limits
        self._publish = publish
        self._poll_interval_s = poll_interval_s
        self._reseed_interval_s = reseed_interval_s
        self._version: int | None = None
        self._published = KeySet([], keys.pepper_fingerprint)
        self._seeded_s: float | None = None
        self._logged: str | None = None

    async def run(self) -> None:
        """Prepare the database, then publish every change of the keys, for ever."""
        while True:
            try:
                await self._prepare()
                async with asyncio.timeout(_READ_TIMEOUT_S):
                    if await self._keys.version() != self._version or self._published.note:
                        await self.load()
            except StoreError as error:
                self._note_trouble(str(error))
            except TimeoutError:
                self._note_trouble("the database does not answer")
            except Exception:  # must not end the loop: revoked keys would stay valid
                logger.exception("the keys cannot be followed; trying again")
                self._note_trouble("an unexpected error")
            await asyncio.sleep(self._poll_interval_s)

    async def load(self) -> None:
        """Read all keys and publish them.

        Raises:
            StoreError: the database cannot be used.
        """
        version = await self._keys.version()  # before the keys, so that no change is missed
        stored = await self._keys.list_stored()
        await self._limits.set_limits({each.key.id: each.key.limits for each in stored})
        self._version = version
        self._published = KeySet(stored, self._keys.pepper_fingerprint)
        self._publish(self._published)
        self._logged = None
        logger.info("%d keys are in force", len(stored))

    async def _prepare(self) -> None:
        """Prepare the database and seed the quotas, the first time; reseed them when due."""
        if self._seeded_s is None or self._published.note:  # it may have been replaced
            await self._keys.prepare()
        now_s = time.monotonic()
        if self._seeded_s is not None and not self._is_reseeding_due(self._seeded_s, now_s):
            return
        await self._limits.set_quota_usage(await self._usage.quota_usage(time.time()))
        self._seeded_s = now_s

    def _is_reseeding_due(self, seeded_s: float, now_s: float) -> bool:
        return self._reseed_interval_s is not None and now_s - seeded_s >= self._reseed_interval_s

    def _note_trouble(self, reason: str) -> None:
        """Publish and log, once, that the keys may be out of date, or that none have been read."""
        if self._version is None:
            if reason != self._logged:
                logger.error("the keys cannot be read, so none is accepted: %s", reason)
            self._logged = reason
            self._publish(None)
        elif self._published.note is None:
            logger.error("the keys cannot be read; those read before stay valid: %s", reason)
            since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
            note = f"the key store cannot be read since {since}; the keys read before stay valid"
            self._published = KeySet(self._published.keys, self._keys.pepper_fingerprint, note)
            self._publish(self._published)
