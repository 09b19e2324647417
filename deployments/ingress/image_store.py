"""Image files that clients fetch by URL, limited in age and total size.

Several ingress replicas may share the folder. A file gets its final name once it is complete, and
its age counts from its modification time.
"""

import asyncio
import contextlib
import logging
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from api.errors import ImageStoreError
from api.ports.images import ImageFormat
from deployments.config.ingress import ImageStoreArgs
from deployments.observability.outage import Outage

logger = logging.getLogger(__name__)

_NAME_BYTES = 16
_NAME = re.compile(r"[A-Za-z0-9_-]{22}\.(?:png|webp|jpeg)")


class ImageFolder:
    """An `ImageStore` in a folder."""

    def __init__(
        self,
        args: ImageStoreArgs,
        clock: Callable[[], float] = time.time,
        *,
        prune_interval_s: float = 60.0,
    ) -> None:
        """Create the folder if needed, readable by its owner only.

        Args:
            args: the folder and its limits.
            clock: returns the Unix time, in seconds.
            prune_interval_s: how often `prune_periodically` removes files.
        """
        self._folder = Path(args.folder).expanduser()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._args = args
        self._clock = clock
        self._prune_interval_s = prune_interval_s
        self._outage = Outage(logger)

    @property
    def base_url(self) -> str | None:
        """What URLs begin with."""
        return self._args.base_url

    async def keep(self, data: bytes, format: ImageFormat) -> str:
        """Write a file, after removing files that are too old or exceed the total size.

        Raises:
            ImageStoreError: the folder cannot be written, as when the disk is full.
        """
        try:
            name = await asyncio.to_thread(self._keep, data, format)
        except OSError as error:
            self._outage.begin("images cannot be stored: %s", error.strerror)
            raise ImageStoreError(
                "The image cannot be stored at the moment. Use 'response_format': 'b64_json'."
            ) from None
        self._outage.end()
        return name

    async def find(self, name: str) -> bytes | None:
        """Read a file that has not expired."""
        return await asyncio.to_thread(self._find, name)

    async def prune_periodically(self) -> None:
        """Remove expired files again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._prune_interval_s)
            with contextlib.suppress(OSError):  # the folder is away, which `keep` tells
                await asyncio.to_thread(self._prune, 0)

    def _keep(self, data: bytes, format: ImageFormat) -> str:
        self._prune(len(data))
        name = f"{secrets.token_urlsafe(_NAME_BYTES)}.{format}"
        draft = self._folder / f".{name}"
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
            now_s = self._clock()
            os.utime(draft, (now_s, now_s))
            draft.rename(self._folder / name)
        except OSError:
            draft.unlink(missing_ok=True)  # half an image would keep the disk full
            raise
        return name

    def _find(self, name: str) -> bytes | None:
        if not _NAME.fullmatch(name):
            return None
        path = self._folder / name
        try:
            if path.stat().st_mtime + self._args.expires_s <= self._clock():
                return None
            return path.read_bytes()
        except OSError:
            return None

    def _prune(self, new_bytes: int) -> None:
        """Remove expired files, then the oldest, until `new_bytes` more fit into the limit."""
        files = sorted(self._list(), reverse=True)  # the newest first
        free_bytes = self._args.max_bytes - new_bytes
        expired_s = self._clock() - self._args.expires_s
        for changed_s, size_bytes, path in files:
            free_bytes -= size_bytes
            if free_bytes < 0 or changed_s <= expired_s:
                path.unlink(missing_ok=True)

    def _list(self) -> list[tuple[float, int, Path]]:
        """Modification time, size and path of all files, drafts of dead replicas included."""
        found = []
        for entry in os.scandir(self._folder):
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:  # removed by another replica
                continue
            found.append((status.st_mtime, status.st_size, Path(entry.path)))
        return found
