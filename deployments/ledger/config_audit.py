"""Writes to the audit log when the service's configuration has changed."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from deployments.ledger.audit_log import AuditLog

logger = logging.getLogger(__name__)

_INTERVAL_S = 5.0


class ConfigAudit:
    """Compares the digest of the deployed configuration with that of the last look."""

    def __init__(
        self,
        audit: AuditLog,
        fetch_details: Callable[[], Awaitable[Mapping[str, Any]]],
        *,
        interval_s: float = _INTERVAL_S,
    ) -> None:
        """Write to `audit`.

        Args:
            audit: where `config_loaded` is written.
            fetch_details: returns Serve's account of its applications; may raise.
            interval_s: pause between two looks.
        """
        self._audit = audit
        self._fetch_details = fetch_details
        self._interval_s = interval_s
        self._digest = ""

    async def run(self) -> None:
        """Watch the configuration, for ever."""
        while True:
            try:
                self._compare(await self._fetch_details())
            except Exception:  # the controller restarts now and then
                logger.debug("the configuration cannot be read", exc_info=True)
            await asyncio.sleep(self._interval_s)

    def _compare(self, details: Mapping[str, Any]) -> None:
        config = [each.get("deployed_app_config") for each in details["applications"].values()]
        text = json.dumps(config, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()
        if digest != self._digest:
            self._audit.write("config_loaded", hash=digest, before=self._digest)
            self._digest = digest
