"""Prompt log: one file per day and process, one JSON object per line, deleted after the retention.

Holds only requests with `log_prompt`, and only if the operator has configured a folder.
"""

import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from deployments.config.ingress import PromptLogArgs
from deployments.observability.outage import Outage

logger = logging.getLogger(__name__)

_DAY_S = 86_400


class PromptFiles:
    """A `PromptLog` in files that only their owner can read."""

    def __init__(self, args: PromptLogArgs) -> None:
        """Create the folder if needed, and a thread that writes to it.

        Raises:
            OSError: the folder cannot be created.
        """
        self._folder = Path(args.folder).expanduser()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._retention_s = args.retention_days * _DAY_S
        self._thread = ThreadPoolExecutor(1, "prompt-log")
        self._pruned_day = ""
        self._outage = Outage(logger)

    def keep(self, request_id: str, model: str, body: bytes) -> None:
        """Log one request's body; returns at once. A full disk is logged once and not raised."""
        self._thread.submit(self._write, datetime.now(UTC), request_id, model, body)

    def shut_down(self) -> None:
        """Write all that is pending, and stop."""
        self._thread.shutdown()

    def _write(self, now: datetime, request_id: str, model: str, body: bytes) -> None:
        record = {
            "time": now.isoformat(timespec="milliseconds"),
            "request_id": request_id,
            "model": model,
            "request": json.loads(body),
        }
        day = f"{now:%Y-%m-%d}"
        try:
            if day != self._pruned_day:
                self._prune()
                self._pruned_day = day
            # One file per process: appending more than a page need not be atomic.
            path = self._folder / f"{day}.{os.getpid()}.jsonl"
            with open(path, "a", opener=_open_privately) as file:
                # The newline ends a line that a full disk has cut off.
                file.write("\n" * self._outage.is_present + json.dumps(record) + "\n")
        except OSError as error:
            self._outage.begin("prompts cannot be logged: %s", error.strerror)
        else:
            self._outage.end()

    def _prune(self) -> None:
        oldest_s = time.time() - self._retention_s
        for path in self._folder.glob("*.jsonl"):
            if path.stat().st_mtime < oldest_s:
                path.unlink(missing_ok=True)


def _open_privately(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
