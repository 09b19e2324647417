"""Where a channel's receiver is found: by a socket file on its own node, by a port from others.

An address is text: `ipc://PATH`, and once the receiver listens for other nodes, after a space,
`tcp://HOST:PORT#KEY`. KEY is its public CURVE key as Z85 (rfc.zeromq.org/spec/32). It never leaves
the calls that carry addresses, and nobody without it completes a handshake
(rfc.zeromq.org/spec/26), so it proves that a peer was told the address.
"""

import contextlib
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

_PREFIX = "triptych-channel-"
_FILE = "socket"
_MAX_PATH_BYTES = 107
"""`sun_path` of unix(7), without its final zero."""
_MIN_AGE_S = 60.0


class Endpoint(NamedTuple):
    """One way to a receiver."""

    url: str
    server_key: bytes | None
    """None for a socket file, which other accounts cannot open."""


def find_endpoint(address: str) -> Endpoint:
    """Return the way to a receiver from this node: its socket file if it is on this node too."""
    local, _, remote = address.partition(" ")
    if remote and not is_on_this_node(address):
        url, _, key = remote.partition("#")
        return Endpoint(url, key.encode())
    return Endpoint(local, None)


def is_on_this_node(address: str) -> bool:
    """Return whether the receiver's socket file is here; its path is not found on two nodes."""
    return os.path.exists(address.partition(" ")[0].removeprefix("ipc://"))


def make_socket_path(folder: str | None = None) -> Path:
    """Return the path of a new socket file, in a folder that only this account can open.

    Args:
        folder: where to make that folder; the usual one for temporary files, or `/tmp` if the
            path would be too long for a socket.
    """
    base = Path(folder or tempfile.gettempdir())
    _remove_dead(base)
    path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base)) / _FILE
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        return path
    path.parent.rmdir()
    return make_socket_path("/tmp")


def remove_socket(path: Path) -> None:
    """Remove a socket file and its folder."""
    shutil.rmtree(path.parent, ignore_errors=True)


def _remove_dead(base: Path) -> None:
    """Remove what processes have left that were killed."""
    for folder in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another account's, or another process was faster
            if time.time() - folder.stat().st_mtime > _MIN_AGE_S:  # else it may not listen yet
                _remove_if_dead(folder / _FILE)


def _remove_if_dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            remove_socket(path)
