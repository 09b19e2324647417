"""Notices that a process of Ray's own has died: nothing works without it, and nothing replaces it.

On several nodes an operator watches over Ray; on one machine this does.
"""

import contextlib

import psutil

NAMES = ("gcs_server", "raylet")


class RayWatch:
    """The processes of the Ray that a tree has started."""

    def __init__(self, root: psutil.Process) -> None:
        """Watch the tree below `root`; nothing has been seen yet."""
        self._root = root
        self._seen: dict[str, psutil.Process] = {}

    def find_dead(self) -> str | None:
        """Look for the processes; return the name of one that was seen and has died."""
        if len(self._seen) < len(NAMES):
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in self._root.children(recursive=True):
                    if (name := _find_name(process)) in NAMES:
                        self._seen.setdefault(name, process)
        return next((name for name, each in self._seen.items() if not _is_alive(each)), None)


def _find_name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
