"""Changes to the configuration that Ray Serve writes for HAProxy and has no settings for.

The configuration is that of Ray 2.60 (ray/serve/_private/haproxy_templates.py).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CONTROL_HEADERS = (
    "serve_multiplexed_model_id",
    "serve-multiplexed-model-id",
    "x-session-id",
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
)
"""Headers by which a client would give orders to Ray Serve (ray/serve/_private/proxy.py)."""

Replacement = Callable[[re.Match[str]], str]

_MARK = "# Changed by triptych-haproxy\n"


class UnknownConfigurationError(ValueError):
    """A part that must be changed is not there; `str()` names it."""


@dataclass(frozen=True)
class Edge:
    """What belongs to the machine and its operator."""

    local_ports: tuple[int, ...]
    """Ports of statistics and metrics, which only this machine may reach."""
    most_files: int | None
    """Hard limit of open files; None if there is none."""
    most_connections_of_an_address: int
    """0 if there is no limit: behind a proxy all clients have its address."""
    error_pages: Mapping[int, Path]


def change(text: str, edge: Edge) -> str:
    """Return the configuration of the edge; one that has been changed before is left alone.

    Raises:
        UnknownConfigurationError: Ray Serve has changed what it writes.
    """
    if text.startswith(_MARK):
        return text
    for port in edge.local_ports:
        text = re.sub(rf"^( *bind )\*?:{port}$", rf"\g<1>127.0.0.1:{port}", text, flags=re.M)
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
