"""HAProxy as Ray Serve starts it, with its configuration changed before: `triptych-haproxy`.

It takes HAProxy's own arguments and becomes HAProxy. `TRIPTYCH_HAPROXY` names the program.
"""

import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

from deployments.haproxy.configuration import Edge, change
from deployments.haproxy.error_pages import write_pages

_MOST_CONNECTIONS = 2000
"""A user, or an office behind one address. The whole node allows ten times as many."""


def main() -> None:
    """Change each configuration among the arguments, and start HAProxy with them."""
    for argument in sys.argv[1:]:
        if argument.endswith(".cfg"):
            path = Path(argument)
            path.write_text(change(path.read_text(), read_edge(path.parent, os.environ)))
    program = os.environ["TRIPTYCH_HAPROXY"]
    os.execv(program, [program, *sys.argv[1:]])


def read_edge(folder: Path, environment: Mapping[str, str]) -> Edge:
    """Read what the environment says, and write the error pages to a folder."""
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    proxies = int(environment.get("TRIPTYCH_TRUSTED_PROXIES", "0"))
    most = environment.get("TRIPTYCH_MAX_CONNECTIONS_PER_ADDRESS", _MOST_CONNECTIONS)
    return Edge(
        most_files=None if most_files == resource.RLIM_INFINITY else most_files,
        most_connections_of_an_address=0 if proxies else int(most),
        trusted_proxies=proxies,
        error_pages=write_pages(folder / "errors"),
    )
