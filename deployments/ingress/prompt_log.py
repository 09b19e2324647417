"""Prompts that may be kept: one file a day, one JSON object a line, deleted after their time.

Only requests that say `log_prompt` end up here, and only if the operator has named a folder.
"""

import json
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from deployments.config.ingress import PromptLogArgs

logger = logging.getLogger(__name__)

_DAY_S = 86_400


class PromptFiles:
    """A `PromptLog` of files that only their owner can read."""

    def __init__(self, args: PromptLogArgs) -> None:
        """Write to `args.folder`, which is made if need be.

        Raises:
            OSError: it cannot be.
        """
        self._folder = Path(args.folder).expanduser()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._retention_s = args.retention_days * _DAY_S
        self._thread = ThreadPoolExecutor(1, "prompt-log")
        self._tidied_day = ""

    def keep(self, request_id: str, model: str, body: bytes) -> None:
        """Keep one request's body."""
        self._thread.submit(self._write, datetime.now(UTC), request_id, model, body)

    def shut_down(self) -> None:
        """Write what is left."""
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
            if day != self._tidied_day:
                self._tidy()
                self._tidied_day = day
            # A file for each process: lines longer than a page may not be written in one piece.
            path = self._folder / f"{day}.{os.getpid()}.jsonl"
            with open(path, "a", opener=_open_privately) as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            logger.error("a prompt could not be kept: %s", error.strerror)

    def _tidy(self) -> None:
        oldest_s = time.time() - self._retention_s
        for path in self._folder.glob("*.jsonl"):
            if path.stat().st_mtime < oldest_s:
                path.unlink(missing_ok=True)


def _open_privately(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
