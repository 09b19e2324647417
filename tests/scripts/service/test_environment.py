import contextlib
import importlib.util
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.settings import Limits
from deployments.config.serving_environment import load_serving_environment
from deployments.config.stream_deadlines import DRAINING_S, HARD_STOP_VARIABLE
from scripts.service.environment import environment, free_ports

HTTP_PORT = "deployments.ingress.http_port"

ROOT = Path(__file__).resolve().parents[3]
READ_BY_RAY_IN = {
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "serve/_private/constants.py",
    "RAY_metrics_report_interval_ms": "_raylet.so",
    "REPORTER_UPDATE_INTERVAL_MS": "dashboard/modules/reporter/reporter_consts.py",
    "METRICS_RECORD_INTERVAL_S": "dashboard/consts.py",
    "RAY_event_stats": "_raylet.so",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "_private/log_monitor.py",
    "LOG_NAME_UPDATE_INTERVAL_S": "_private/log_monitor.py",
}
"""The settings that only save CPU at rest: nothing fails when a newer Ray ignores one."""
SAME_EVERYWHERE = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LOG_NAME_UPDATE_INTERVAL_S": "2",
    "METRICS_RECORD_INTERVAL_S": "30",
    "RAY_AUTH_MODE": "token",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "10",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
    "RAY_SERVE_CONTROLLER_CALLBACK_IMPORT_PATH": f"{HTTP_PORT}:guard_proxy_address",
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "3",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": f"{HTTP_PORT}:guard_http_ports",
    "RAY_SERVE_HAPROXY_CLOSE_SPREAD_TIME_S": "10",
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "720",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "5000",
    "RAY_SERVE_HAPROXY_MAXCONN": "20000",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": "134217728",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_LOG_MONITOR_MANY_FILES_THRESHOLD": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_event_stats": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_metrics_report_interval_ms": "30000",
    "REPORTER_UPDATE_INTERVAL_MS": "15000",
    "VLLM_NO_USAGE_STATS": "1",
}
OF_THIS_MACHINE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_HAPROXY_BINARY_PATH",
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH",
    "RAY_SERVE_HAPROXY_NBTHREAD",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE",
    "RAY_SERVE_HAPROXY_SOCKET_PATH",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_TMPDIR",
    "TMPDIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "TRIPTYCH_HAPROXY",
    "TRIPTYCH_HOME",
}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home; its private folder, which is outside of it, is removed at the end."""
    link = tmp_path / "logs" / "ray"
    link.parent.mkdir()
    yield tmp_path
    shutil.rmtree(link.readlink().parents[2])


def test_haproxy_lets_streams_finish_that_last_as_long_as_the_default_allows(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(HARD_STOP_VARIABLE, raising=False)

    hard_stop_s = float(environment(home)[HARD_STOP_VARIABLE])

    assert hard_stop_s >= Limits().request_timeout_s + DRAINING_S


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a user who has set none of the variables."""
    for name in (*SAME_EVERYWHERE, *OF_THIS_MACHINE):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("bare_environment")
def test_service_gets_what_is_the_same_everywhere_and_what_belongs_to_the_machine(
    home: Path,
) -> None:
    added = environment(home).items() - os.environ.items()

    values = dict(added)
    assert {name: values[name] for name in SAME_EVERYWHERE} == SAME_EVERYWHERE
    assert set(values) == set(SAME_EVERYWHERE) | OF_THIS_MACHINE


def test_what_is_the_same_everywhere_is_in_the_one_file_for_it() -> None:
    assert load_serving_environment() == SAME_EVERYWHERE


@pytest.mark.parametrize("name", READ_BY_RAY_IN)
def test_user_overrides_what_saves_cpu_at_rest(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "123")

    assert environment(home)[name] == "123"


def test_what_saves_cpu_at_rest_is_documented_with_its_value(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in READ_BY_RAY_IN:
        monkeypatch.delenv(name, raising=False)
    settings = environment(home)
    page = (ROOT / "docs" / "performance.md").read_text()
    documented = dict(re.findall(r"^\| `(\w+)=(\w+)` \|", page, re.MULTILINE))

    assert {name: documented.get(name) for name in READ_BY_RAY_IN} == {
        name: settings[name] for name in READ_BY_RAY_IN
    }


@pytest.mark.parametrize(("name", "file"), READ_BY_RAY_IN.items())
def test_installed_ray_reads_what_saves_cpu_at_rest(name: str, file: str) -> None:
    ray = importlib.util.find_spec("ray")

    assert ray
    assert ray.submodule_search_locations
    assert name.encode() in Path(ray.submodule_search_locations[0], file).read_bytes()


def test_ports_are_free_and_different() -> None:
    ports = free_ports(20)

    assert len(set(ports)) == 20
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in ports]
        bound = [probe.bind(("127.0.0.1", port)) for probe, port in zip(probes, ports, strict=True)]

    assert bound == [None] * 20


def test_ports_are_outside_the_range_of_outgoing_connections() -> None:
    given = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    first, last = map(int, given)

    assert not any(first <= port <= last for port in free_ports(20))
