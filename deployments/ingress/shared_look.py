"""How ingress replicas share their looks at Serve where there is no ledger.

One of them looks, and writes what it has seen to the cluster's store with a stamp. The others read
the stamp, which is small, and the rest only when the stamp says that it has changed. So Serve's
controller is asked as often by a hundred ingress replicas as by one. There is no election: the one
that has written the stamp last goes on looking, and when the stamp has not moved for a while,
another one begins. Two may look for a moment, which does no harm.
"""

import hashlib
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from deployments.discovery import pack_details, unpack_details
from deployments.transport.cluster_store import ClusterStore, ClusterStoreError

logger = logging.getLogger(__name__)

_STAMP = "serve/stamp"
_DETAILS = "serve/details"
_TOKEN_BYTES = 16
"""Each stamp has a random token, and what was seen has a digest of as many bytes."""

Details = Mapping[str, Any]


class SharedLook:
    """The look of one ingress replica."""

    def __init__(
        self,
        look: Callable[[], Awaitable[Details]],
        store: ClusterStore,
        *,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look for the first time when asked to.

        Args:
            look: asks Serve's controller; may raise.
            store: what the ingress replicas share.
            interval_s: how often `fetch` is called.
            clock: returns seconds; those of two nodes are never compared.
        """
        self._look = look
        self._store = store
        self._interval_s = interval_s
        self._clock = clock
        self._has_looked = False
        self._own: bytes | None = None
        """The stamp that this replica has written last."""
        self._seen: bytes | None = None
        """The stamp that was read last; None if it may have stood still since long."""
        self._digest = b""
        """Of the details that were returned last; empty if it is not known."""
        self._gives_up_s = 0.0

    async def fetch(self) -> Details | None:
        """Return what Serve runs; None if it is not known to have changed since the last call.

        The first call never returns None.

        Raises:
            Exception: what `look` raises.
        """
        if not self._has_looked:
            return await self._lead()
        try:
            stamp = await self._store.get(_STAMP) or b""
            if stamp != self._own:
                return await self._follow(stamp)
        except ClusterStoreError as error:
            logger.warning("what other ingress replicas have seen cannot be read: %s", error)
            self._digest = b""
            return await self._look()
        return await self._lead()

    def stop_following(self) -> None:
        """Note that others say what Serve runs: the stamp and the details here are old."""
        self._seen = None
        self._digest = b""

    async def _follow(self, stamp: bytes) -> Details | None:
        if self._seen is None:  # it may be of a replica that is long gone
            self._wait_for_others(0, 1)
        elif stamp != self._seen:
            self._wait_for_others(2, 3)
            if self._digest != (digest := stamp[_TOKEN_BYTES:]) and digest:
                self._seen = stamp
                return await self._read()
        elif self._clock() >= self._gives_up_s:
            await self._write_stamp(b"")  # so that the others do not look too
            return await self._lead()
        self._seen = stamp
        return None

    async def _read(self) -> Details | None:
        packed = await self._store.get(_DETAILS)
        if packed is None:
            return None
        self._digest = _to_digest(packed)
        return unpack_details(packed)

    def _wait_for_others(self, least: float, most: float) -> None:
        """Give those who look as many intervals; by chance, so that not all begin at once."""
        self._gives_up_s = self._clock() + random.uniform(least, most) * self._interval_s

    async def _lead(self) -> Details:
        details = await self._look()
        self._has_looked = True
        packed = pack_details(details)
        self._digest = _to_digest(packed)
        try:
            # Each time: if two have led for a moment, what the last one has seen stays.
            await self._store.put(_DETAILS, packed)
            await self._write_stamp(self._digest)
        except ClusterStoreError as error:
            logger.warning("other ingress replicas cannot read what this one sees: %s", error)
        return details

    async def _write_stamp(self, digest: bytes) -> None:
        stamp = secrets.token_bytes(_TOKEN_BYTES) + digest
        await self._store.put(_STAMP, stamp)
        self._own = self._seen = stamp


def _to_digest(packed: bytes) -> bytes:
    return hashlib.sha256(packed).digest()[:_TOKEN_BYTES]
