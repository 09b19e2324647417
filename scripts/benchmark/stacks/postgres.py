"""A PostgreSQL server of its own folder and port: Debian's program, for the length of a block."""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.service.environment import free_ports

_TIMEOUT_S = 30.0
VOLATILE = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")
"""Settings of a server whose data need not survive a crash of the machine."""


class PostgresError(Exception):
    """PostgreSQL is not installed, or does not start; the message says why."""


@contextmanager
def running_postgres(
    folder: Path, settings: tuple[str, ...] = (), host: str = "127.0.0.1"
) -> Iterator[int]:
    """Run a server that trusts every client of its networks as user `postgres`; yields its port.

    Args:
        folder: Where its files are; it exists and is empty, and every user may enter its parents.
        settings: Such as `fsync=off`.
        host: The address of this machine to listen at.

    Raises:
        PostgresError: it is not installed, or does not start.
    """
    programs = _find_programs()
    # PostgreSQL refuses to run as root, so root gives it another user's folder.
    user = _find_user() if os.geteuid() == 0 else None
    as_user: dict[str, Any] = {"user": user, "group": pwd.getpwnam(user).pw_gid} if user else {}
    if user:
        shutil.chown(folder, user, as_user["group"])
    make = [programs / "initdb", "--pgdata", folder / "data", "--username", "postgres"]
    make += ["--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"]
    done = subprocess.run(make, capture_output=True, text=True, cwd="/", **as_user)
    if done.returncode:
        raise PostgresError(f"initdb failed: {done.stderr}")
    with (folder / "data" / "pg_hba.conf").open("a") as rules:
        rules.write("host all all samenet trust\n")
    port = free_ports(1)[0]
    serve = [programs / "postgres", "-D", folder / "data", "-k", folder, "-p", str(port)]
    serve += [word for setting in settings for word in ("-c", setting)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*serve, "-h", host], stderr=log, cwd="/", **as_user)
    try:
        _wait_for(programs, host, port, server)
        yield port
    finally:
        server.send_signal(signal.SIGINT)  # fast shutdown: does not wait for clients
        server.wait(_TIMEOUT_S)


def make_database(port: int, name: str, host: str = "127.0.0.1") -> str:
    """Create an empty database; returns its URL."""
    command = [_find_programs() / "createdb", "-h", host, "-p", str(port), "-U", "postgres"]
    subprocess.run([*command, name], check=True, cwd="/")
    return f"postgresql://postgres@{host}:{port}/{name}"


def _find_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    on_path = shutil.which("postgres")
    if not found and on_path is None:
        raise PostgresError("PostgreSQL is not installed: apt-get install postgresql")
    return found[-1].parent if found else Path(str(on_path)).parent


def _find_user() -> str:
    names = {user.pw_name for user in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _wait_for(programs: Path, host: str, port: int, server: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + _TIMEOUT_S
    ask = [programs / "pg_isready", "-q", "-h", host, "-p", str(port)]
    while subprocess.run(ask, cwd="/").returncode:
        if server.poll() is not None:
            raise PostgresError("PostgreSQL ended while it was starting")
        if time.monotonic() > deadline_s:
            raise PostgresError("PostgreSQL did not start")
        time.sleep(0.05)
