import contextlib
import importlib.util
import re
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.settings import Limits
from deployments.config.stream_deadlines import DRAINING_S, HARD_STOP_VARIABLE
from scripts.service.environment import environment, free_ports, haproxy_connections

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

    hard_stop_s = float(environment(ROOT, home)[HARD_STOP_VARIABLE])

    assert hard_stop_s >= Limits().request_timeout_s + DRAINING_S


@pytest.mark.parametrize("name", READ_BY_RAY_IN)
def test_user_overrides_what_saves_cpu_at_rest(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "123")

    assert environment(ROOT, home)[name] == "123"


def test_what_saves_cpu_at_rest_is_documented_with_its_value(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in READ_BY_RAY_IN:
        monkeypatch.delenv(name, raising=False)
    settings = environment(ROOT, home)
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


@pytest.mark.parametrize(
    ("most_files", "connections"),
    [
        (resource.RLIM_INFINITY, 20_000),
        (1_048_576, 20_000),
        (20_000, 9_800),
        (1_024, 4_096),  # Serve's default
    ],
)
def test_haproxy_takes_as_many_clients_as_open_files_allow(
    most_files: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (256, most_files))

    assert haproxy_connections() == connections
