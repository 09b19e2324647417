"""The audit log: changes of keys and configuration, one JSON object per line, append-only.

Callers must not write secrets, digests, prompts or outputs.
"""

import errno
import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deployments.observability.outage import Outage

logger = logging.getLogger(__name__)

_MAX_CHARS = 256


class AuditLog:
    """A file that several processes may append to."""

    def __init__(self, path: Path, **common: Any) -> None:
        """Write to `path`; every event has the `common` fields too, such as `actor`."""
        self._path = path
        self._common = common
        self._outage = Outage(logger)

    def write(self, event: str, **fields: Any) -> None:
        """Append one event. A failure is logged once and not raised.

        Events: key_created, key_changed, key_rotated, key_disabled, key_enabled, key_deleted,
        auth_failures, config_loaded.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        members = {"time": now, "event": event, **_cap({**self._common, **fields})}
        # ASCII, so that a control character in a name cannot end the line or control a terminal.
        line = json.dumps(members, ensure_ascii=True).encode() + b"\n"
        try:
            self._append(line)
        except OSError as error:
            self._outage.begin("the audit log %s cannot be written: %s", self._path, error.strerror)
        else:
            self._outage.end()

    def _append(self, line: bytes) -> None:
        """Write with one call, so that lines of several processes do not mix."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            if os.write(descriptor, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)


def _cap(value: Any) -> Any:
    if isinstance(value, str):
        return value[:_MAX_CHARS]
    if isinstance(value, Mapping):
        return {name: _cap(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_cap(item) for item in value]
    return value
