import socket
from pathlib import Path

from scripts.service.environment import free_ports


def test_ports_are_free_and_different() -> None:
    ports = free_ports(20)

    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_no_outgoing_connection_is_given_one_of_them() -> None:
    given = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    first, last = map(int, given)

    assert not any(first <= port <= last for port in free_ports(20))
