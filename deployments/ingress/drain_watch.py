"""Lets `scripts/serve` drain an ingress replica, by files in the home folder that both see."""

import asyncio
import contextlib
import os
import time
from pathlib import Path

from api.http.draining import Draining

_INTERVAL_S = 0.2


async def watch_for_drain(
    folder: Path, draining: Draining, *, interval_s: float = _INTERVAL_S
) -> None:
    """Drain this replica once the folder says so; for ever.

    Args:
        folder: see `deployments.home.DRAIN_FOLDER`.
        draining: the replica's requests.
        interval_s: how often to look, and to say how many requests there are.
    """
    started_s = time.time() - 1  # a file system's clock may be behind
    while (until_s := _read_time(folder / "until", started_s)) is None:  # noqa: ASYNC110  # a file
        await asyncio.sleep(interval_s)
    draining.begin()
    count = folder / f"{os.getpid()}.requests"
    while True:
        with contextlib.suppress(OSError):
            count.write_text(str(len(draining)))
        if time.time() >= until_s:
            draining.end()
        await asyncio.sleep(interval_s)


def _read_time(path: Path, after_s: float) -> float | None:
    """Read the file, unless it is of an earlier service, which was killed while it drained."""
    try:
        return float(path.read_text()) if path.stat().st_mtime >= after_s else None
    except (OSError, ValueError):
        return None
