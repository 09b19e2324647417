"""A Redis server for tests, with its own port, that stores nothing on disk."""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.service.environment import free_ports

_TIMEOUT_S = 10.0


@contextlib.contextmanager
def running_redis() -> Iterator[int]:
    """Run a server without a password on the loopback address; yields its port."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail("Redis is not installed: apt-get install redis-server")
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="triptych-redis-") as folder:
        command = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", folder]
        with Path(folder, "log").open("wb") as log:
            server = subprocess.Popen([*command, "--save", "", "--appendonly", "no"], stdout=log)
        try:
            _wait_for(port)
            yield port
        finally:
            server.terminate()
            server.wait(_TIMEOUT_S)


def _wait_for(port: int) -> None:
    deadline_s = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.02)
        else:
            return
