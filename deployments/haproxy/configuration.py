"""Changes to the configuration that Ray Serve writes for HAProxy and has no settings for.

The configuration is that of Ray 2.60 (ray/serve/_private/haproxy_templates.py).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from api.access.failed_keys import CLIENT_ADDRESS_HEADER
from deployments.ingress.control_headers import CONTROL_HEADERS

Replacement = Callable[[re.Match[str]], str]

_MARK = "# Changed by triptych-haproxy\n"


class UnknownConfigurationError(ValueError):
    """A part that must be changed is not there; `str()` names it."""


@dataclass(frozen=True)
class Edge:
    """What belongs to the machine and its operator."""

    most_files: int | None
    """Hard limit of open files; None if there is none."""
    most_connections_of_an_address: int
    """0 if there is no limit: behind a proxy all clients have its address."""
    trusted_proxies: int
    """Proxies in front of this one that add the address of their peer to `x-forwarded-for`."""
    error_pages: Mapping[int, Path]


def change(text: str, edge: Edge) -> str:
    """Return the configuration of the edge; one that has been changed before is left alone.

    Raises:
        UnknownConfigurationError: Ray Serve has changed what it writes.
    """
    if text.startswith(_MARK):
        return text
    # Statistics and metrics would need no key, and orders no more than an account.
    text = _replace(text, r"^frontend prometheus\n(?: .*\n)+", "")
    text = _replace(text, r"^listen stats\n(?: .*\n?)+", "")
    text = _replace(text, r"^( *stats socket .*) mode 666 ", r"\g<1> mode 600 ")
    text = re.sub(r"^ *option splice-.*\n", "", text, flags=re.M)
    text = re.sub(r"^ *errorfile .*\n", "", text, flags=re.M)
    text = re.sub(
        r"^( *maxconn )(\d+)$",
        lambda found: found[1] + str(_fit_connections(int(found[2]), edge.most_files)),
        text,
        flags=re.M,
    )
    text = _insert_after(text, r"^defaults\n *mode http\n", _write_defaults(edge))
    text = _insert_after(text, r"^frontend http_frontend\n *bind .*\n", _write_rules(edge))
    # Without a backend there is nothing to find yet; and a 404 is not tried again.
    text = _replace(
        text, r"(?<=^backend default_backend\n).*", "    http-request deny deny_status 503"
    )
    return _MARK + text


def _fit_connections(wanted: int, most_files: int | None) -> int:
    """Each client takes two open files. HAProxy would not start, and no model either."""
    return wanted if most_files is None else min(wanted, most_files // 2 - 50)


def _write_defaults(edge: Edge) -> Iterator[str]:
    # Clients that send half of their headers take places. Bodies and streams may last.
    yield "timeout http-request 10s"
    for status, page in edge.error_pages.items():
        yield f"errorfile {status} {page}"


def _write_rules(edge: Edge) -> Iterator[str]:
    if edge.most_connections_of_an_address:
        yield "stick-table type ipv6 size 100k expire 2h store conn_cur"
        yield "tcp-request connection track-sc0 src unless { src 127.0.0.0/8 ::1 }"
        most = edge.most_connections_of_an_address
        yield f"tcp-request connection reject if {{ sc0_conn_cur gt {most} }}"
    yield "http-request deny deny_status 404 if { path /-/routes } || !{ path_beg / }"  # OPTIONS *
    yield f"http-request set-header {CLIENT_ADDRESS_HEADER} %[src]"
    if edge.trusted_proxies:
        seen = f"req.hdr(x-forwarded-for,-{edge.trusted_proxies})"
        yield f"http-request set-header {CLIENT_ADDRESS_HEADER} %[{seen}] if {{ {seen} -m found }}"
    # Nothing here is upgraded to another protocol.
    yield "http-request del-header upgrade"
    for header in CONTROL_HEADERS:
        yield f"http-request del-header {header}"
    yield "acl has_one_request_id req.fhdr_cnt(x-request-id) eq 1"
    yield "acl has_good_request_id req.fhdr(x-request-id) -m reg '^[!-~]{1,128}$'"
    yield "http-request del-header x-request-id unless has_one_request_id has_good_request_id"
    yield "http-request set-path %[path,regsub(//+,/,g)] if { path_sub // }"
    yield "http-request set-path %[path,regsub(/$,)] if { path_end / } !{ path / }"


def _insert_after(text: str, pattern: str, lines: Iterator[str]) -> str:
    inserted = "".join(f"    {line}\n" for line in lines)
    return _replace(text, pattern, lambda found: found[0] + inserted)


def _replace(text: str, pattern: str, replacement: str | Replacement) -> str:
    changed, count = re.subn(pattern, replacement, text, flags=re.M)
    if count != 1:
        raise UnknownConfigurationError(f"{count} places match {pattern!r}")
    return changed
