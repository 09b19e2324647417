"""What listens while the service runs, against the table of ports in docs/deployment.md."""

import ipaddress
import json
import re
from pathlib import Path

import httpx
import psutil
import pytest

from tests.helpers.service import Service

pytestmark = pytest.mark.cluster

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "deployment.md"
PROCESS_NAMES = {
    "haproxy": "HAProxy",
    "ray::ServeReplica:": "replicas",
    "ray::ProxyActor": "Serve's proxy",
    "ray::": "Ray",
    "ray/": "Ray",
    "bin/serve": "Ray",
}
"""Part of a command line → the process as the table names it; the first that fits."""


def name_of(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    return next((name for part, name in PROCESS_NAMES.items() if part in line), line)


def find_listeners(service: Service) -> set[tuple[str, str, int]]:
    """Process, address and port of every TCP socket that takes connections."""
    pids = {process.pid for process in service.processes()}
    found = set()
    for each in psutil.net_connections("tcp"):
        is_own = each.pid in pids or each.laddr.port == service.port
        if is_own and each.status == psutil.CONN_LISTEN:
            found.add((name_of(psutil.Process(each.pid)), each.laddr.ip, each.laddr.port))
    return found


def test_nothing_listens_but_what_the_table_of_ports_names(service: Service) -> None:
    section = DOCUMENT.read_text().partition("## Ports")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| ([^|]+?) \|", section, re.MULTILINE)) - {"process", "---"}
    listeners = find_listeners(service)

    assert {name for name, _, _ in listeners} == named
    assert {port for name, _, port in listeners if name == "HAProxy"} == {service.port}


def test_every_address_is_that_of_this_machine_alone(service: Service) -> None:
    addresses = {address for _, address, _ in find_listeners(service)}

    for address in map(ipaddress.ip_address, addresses):
        plain = getattr(address, "ipv4_mapped", None) or address
        assert plain.is_loopback, addresses


def test_no_http_port_of_a_replica_leads_past_the_keys(service: Service) -> None:
    answers = {}
    for name, address, port in find_listeners(service):
        if name == "replicas" and 30_000 <= port < 31_000:
            for path in ("/", "/-/routes", "/v1/models"):
                answer = httpx.get(f"http://{address}:{port}{path}")
                answers[port, path] = answer.status_code
                assert "message" in json.loads(answer.content)["error"]

    assert len(answers) > 9
    assert set(answers.values()) == {401, 404}
