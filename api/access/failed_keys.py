"""Counts API keys that were not valid, by the address that sent them."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

CLIENT_ADDRESS_HEADER = "x-triptych-client-address"
"""Set by HAProxy, which removes a client's own."""

_WINDOW_S = 60.0


@dataclass(slots=True)
class _Window:
    """Failures since a time; a new window begins with the first failure after this one's end."""

    began_s: float
    failures: int = 0

    def count(self, now_s: float, most: int) -> float | None:
        """Count a failure; return the seconds until the window ends if it was one too many."""
        if now_s >= self.began_s + _WINDOW_S:
            self.began_s, self.failures = now_s, 0
        self.failures += 1
        return self.began_s + _WINDOW_S - now_s if self.failures > most else None


class FailedKeys:
    """A table of bounded size, of one process."""

    def __init__(
        self,
        most_of_an_address: int = 20,
        most_in_all: int = 1000,
        most_addresses: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without failures.

        Args:
            most_of_an_address: failures per minute that still get the usual 401.
            most_in_all: the same for all addresses together, against many that try few each.
            most_addresses: the address that failed longest ago is forgotten beyond these.
            clock: seconds, never set back.
        """
        self._most_of_an_address = most_of_an_address
        self._most_in_all = most_in_all
        self._most_addresses = most_addresses
        self._clock = clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        self._in_all = _Window(clock())

    def count(self, address: str) -> float | None:
        """Count a failure; return the seconds to wait if there were too many, else None."""
        now_s = self._clock()
        name = _to_network(address)
        window = self._windows.setdefault(name, _Window(now_s))
        self._windows.move_to_end(name)
        if len(self._windows) > self._most_addresses:
            self._windows.popitem(last=False)
        waits_s = (
            window.count(now_s, self._most_of_an_address),
            self._in_all.count(now_s, self._most_in_all),
        )
        return max((wait_s for wait_s in waits_s if wait_s is not None), default=None)

    def __len__(self) -> int:
        """Return the number of addresses in the table."""
        return len(self._windows)


def find_client_address(scope: Scope) -> str:
    """Return the address of the client, as HAProxy saw it; without HAProxy, that of the peer."""
    address = Headers(scope=scope).get(CLIENT_ADDRESS_HEADER)
    return address or (scope.get("client") or ("",))[0]


def _to_network(address: str) -> str:
    """Return what belongs to one client: an IPv4 address, or 64 bits of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))
