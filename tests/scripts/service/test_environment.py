import contextlib
import socket
from pathlib import Path

from scripts.service.environment import free_ports


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
