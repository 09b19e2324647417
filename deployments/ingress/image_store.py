"""Images that are fetched by URL: files in a folder, for a while, and not too many bytes of them.

Several ingress replicas may share the folder: a file is complete when it has its name, and its
time is that of its last change.
"""

import asyncio
import os
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from api.ports.images import ImageFormat
from deployments.config.ingress import ImageStoreArgs

_NAME_BYTES = 16
_NAME = re.compile(r"[A-Za-z0-9_-]{22}\.(?:png|webp|jpeg)")
_TIDY_S = 60.0


class ImageFolder:
    """An `ImageStore` on the disk."""

    def __init__(self, args: ImageStoreArgs, clock: Callable[[], float] = time.time) -> None:
        """Use a folder, which is made if it is not there; nobody else may read it."""
        self._folder = Path(args.folder).expanduser()
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._args = args
        self._clock = clock

    @property
    def base_url(self) -> str | None:
        """What URLs begin with."""
        return self._args.base_url

    async def keep(self, data: bytes, format: ImageFormat) -> str:
        """Write a file, and remove what is too old or too much."""
        return await asyncio.to_thread(self._keep, data, format)

    async def find(self, name: str) -> bytes | None:
        """Read a file that has not expired."""
        return await asyncio.to_thread(self._find, name)

    async def tidy(self) -> None:
        """Remove what is too old, for as long as this is awaited."""
        while True:
            await asyncio.sleep(_TIDY_S)
            await asyncio.to_thread(self._make_room, 0)

    def _keep(self, data: bytes, format: ImageFormat) -> str:
        self._make_room(len(data))
        name = f"{secrets.token_urlsafe(_NAME_BYTES)}.{format}"
        draft = self._folder / f".{name}"
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        now_s = self._clock()
        os.utime(draft, (now_s, now_s))
        draft.rename(self._folder / name)
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

    def _make_room(self, size_bytes: int) -> None:
        """Remove the oldest files until all is within its limits."""
        files = sorted(self._list(), reverse=True)  # the newest first
        room_bytes = self._args.max_bytes - size_bytes
        oldest_s = self._clock() - self._args.expires_s
        for changed_s, bytes_, path in files:
            room_bytes -= bytes_
            if room_bytes < 0 or changed_s <= oldest_s:
                path.unlink(missing_ok=True)

    def _list(self) -> list[tuple[float, int, Path]]:
        """All files, also drafts that a replica has left behind."""
        found = []
        for entry in os.scandir(self._folder):
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:  # another replica has removed it
                continue
            found.append((status.st_mtime, status.st_size, Path(entry.path)))
        return found
