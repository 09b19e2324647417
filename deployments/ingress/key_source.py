"""Where the API keys come from: the environment or `scripts/serve`'s file, and the ledger."""

import asyncio
import contextlib
import hmac
import logging
import os
from collections.abc import Iterator
from datetime import UTC, datetime

from api.access.key_ring import KeyDigest, KeyRing, Keys, to_entries
from deployments.home import find_home
from deployments.ledger.pepper import to_pepper_fingerprint
from deployments.ledger.protocol import KeySet

logger = logging.getLogger(__name__)

_VARIABLE = "TRIPTYCH_API_KEYS"


class NoApiKeysError(Exception):
    """Authentication is on, but there are no keys."""


class KeySource:
    """Keeps the key ring of one ingress replica up to date."""

    def __init__(self, pepper: bytes) -> None:
        """Read the environment's keys; the ledger's keys come later, by `update`.

        Raises:
            ValueError: one of the keys is not valid.
        """
        secrets = _read().replace(",", " ").split()
        self._environment_keys = to_entries(secrets, pepper) if secrets else []
        self._pepper = pepper
        self._failures = 0
        self._is_known = asyncio.Event()
        self.keys = Keys(KeyRing(self._environment_keys, pepper), self._count_failure)

    def use_environment_only(self) -> None:
        """Take the environment's keys for all there are: the configuration has no ledger.

        Raises:
            NoApiKeysError: the environment has none; the message says how to create one.
        """
        if not self._environment_keys:
            raise NoApiKeysError(
                f"no API key is configured: set {_VARIABLE} to one or more, separated by commas, "
                "or run ./scripts/serve, which makes one, or add the application of "
                "deployments.app:ledger and make keys with ./scripts/keys (or set "
                "auth: {required: false} in the ingress's args, behind a gate of your own)"
            )
        self.keys.is_known = True
        self._is_known.set()

    async def wait_until_known(self, timeout_s: float) -> None:
        """Return once all keys are known, or after `timeout_s` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._is_known.wait()

    def update(self, key_set: KeySet) -> None:
        """Replace the ledger's keys by the current ones."""
        if not hmac.compare_digest(key_set.pepper_fingerprint, to_pepper_fingerprint(self._pepper)):
            self._warn("this node has another TRIPTYCH_PEPPER than the ledger's")
            return
        ring = KeyRing([*self._environment_keys, *_to_entries(key_set)], self._pepper)
        self.keys.swap(ring)
        self._is_known.set()
        if key_set.note:
            self._warn(key_set.note)

    def mark_stale(self) -> None:
        """Note that the ledger cannot be reached; its last known keys stay valid."""
        since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        self._warn(f"the ledger cannot be reached since {since}; the keys read before stay valid")

    def pop_failures(self) -> int:
        """Number of failed authentications since the last call."""
        failures, self._failures = self._failures, 0
        return failures

    def _warn(self, note: str) -> None:
        logger.error("keys: %s", note)
        self.keys.note = note

    def _count_failure(self) -> None:
        self._failures += 1


def _to_entries(key_set: KeySet) -> Iterator[KeyDigest]:
    for stored in key_set.keys:
        yield KeyDigest(stored.key, stored.digest)
        if stored.previous_digest is not None:
            yield KeyDigest(stored.key, stored.previous_digest, stored.previous_until_s)


def _read() -> str:
    if from_environment := os.environ.get(_VARIABLE):
        return from_environment
    path = find_home() / "api_key"
    return path.read_text() if path.is_file() else ""
