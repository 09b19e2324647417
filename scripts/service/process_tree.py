"""Starts one process, and ends it with all of its descendants.

`serve run` is the root of a tree: Ray -> replicas -> HAProxy and vLLM's EngineCore. A parent that
dies early leaves orphans, so this process declares itself their reaper (PR_SET_CHILD_SUBREAPER):
orphans become its descendants, are found by walking the tree, and are ended by pid. No process is
searched by name: other Ray clusters may run on the same machine.
"""

import ctypes
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import psutil

STOP_S = 12.0  # for the root to end its tree after SIGTERM
ORPHANS_S = 2.0  # for processes that outlive the root to end by themselves
KILL_S = 4.0  # for processes to disappear after SIGKILL
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
LIBC = ctypes.CDLL(None)


def start(
    command: list[str], *, cwd: Path, env: dict[str, str], log: TextIO
) -> subprocess.Popen[bytes]:
    """Start the root of a tree; it gets SIGTERM when this process dies."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # the terminal's Ctrl-C reaches this process only
        umask=0o077,  # Ray writes its token and logs
        preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
    )


def end(root: subprocess.Popen[bytes], hurry: int) -> None:
    """End the tree: SIGTERM to its root, then SIGKILL to the rest; 18 s at most.

    Args:
        root: What `start` returned.
        hurry: A file descriptor; when it becomes readable, the wait is skipped.
    """
    if root.returncode is None:
        root.terminate()
    is_alone, deadline = False, time.monotonic() + STOP_S
    while descendants() and time.monotonic() < deadline:
        if select.select([hurry], [], [], 0.1)[0]:
            break
        reap(root)
        if root.returncode is not None and not is_alone:
            is_alone, deadline = True, min(deadline, time.monotonic() + ORPHANS_S)
    kill(descendants())
    deadline = time.monotonic() + KILL_S
    while descendants() and time.monotonic() < deadline:
        reap(root)
        time.sleep(0.05)
    reap(root)


def reap(root: subprocess.Popen[bytes]) -> None:
    """Reap every ended child, adopted orphans included; set the root's returncode."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        if pid == root.pid:
            root.returncode = os.waitstatus_to_exitcode(status)


def descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def end_session(session: int, cwd: Path) -> int:
    """Kill what is left of the tree that an earlier process started; return the number killed.

    Every process of the tree is in its root's session and runs in the root's folder. Both are
    checked, because the session id may have been reused.
    """
    left = list(_session_members(session, cwd))
    kill(left)
    psutil.wait_procs(left, timeout=KILL_S)
    return len(left)


def _session_members(session: int, cwd: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.cwd() == str(cwd):
                yield process
        except (psutil.Error, OSError):
            continue  # it has ended, or belongs to another user
