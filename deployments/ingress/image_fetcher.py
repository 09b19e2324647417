"""Fetches images from https URLs on hosts that the operator allows.

A client that chooses the URL could reach machines that only this service can reach (server-side
request forgery). Therefore the parser that checks the URL is the one that the HTTP client uses, the
host must be listed, it is resolved once to public addresses and these are the ones connected to,
redirects are not followed, and every failure gets the same error message.
"""

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from api.errors import InvalidImageError

logger = logging.getLogger(__name__)

_FETCH_TIMEOUT_S = 5.0
_CHUNK_BYTES = 65_536

Lookup = Callable[[str], Awaitable[list[str]]]
"""Host → its IP addresses."""


class HttpsImages:
    """An `ImageFetcher` for a list of hosts."""

    def __init__(
        self,
        hosts: frozenset[str],
        resolver: AbstractResolver | None = None,
        tls: ssl.SSLContext | bool = True,
    ) -> None:
        """Allow `hosts`.

        Args:
            hosts: exact host names, in lower case.
            resolver: finds their addresses; by default only public ones.
            tls: checks their certificates; True uses the system's authorities.
        """
        self._hosts = hosts
        self._resolver = resolver or PublicResolver(look_up)
        self._tls = tls

    def check(self, url: str) -> None:
        """Check a URL against the list of hosts, without a look-up or a connection.

        Raises:
            InvalidImageError: the URL is not allowed.
        """
        try:
            to_target(url, self._hosts)
        except ValueError:
            raise _refused() from None

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        """Fetch the content of a URL.

        Raises:
            InvalidImageError: the URL is not allowed or cannot be fetched; only the log says why.
        """
        try:
            target = to_target(url, self._hosts)
            async with asyncio.timeout(_FETCH_TIMEOUT_S):
                return await self._get(target, max_bytes)
        except (ValueError, OSError, TimeoutError, aiohttp.ClientError) as error:
            logger.info("an image was not fetched: %s", type(error).__name__)
            raise _refused() from None

    async def _get(self, url: URL, max_bytes: int) -> bytes:
        connector = aiohttp.TCPConnector(
            resolver=self._resolver, use_dns_cache=False, ssl=self._tls
        )
        async with (
            aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            data = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                data += chunk
                if len(data) > max_bytes:
                    raise ValueError("too large")
            return bytes(data)


def _refused() -> InvalidImageError:
    """One message for all reasons, so that it cannot be used to scan the network."""
    return InvalidImageError("An image URL cannot be used.", param="messages")


def to_target(url: str, hosts: frozenset[str]) -> URL:
    """Parse a URL and check that it may be fetched.

    Raises:
        ValueError: it is not plain https to one of the hosts on port 443.
    """
    if not url.isascii() or "\\" in url or any(char.isspace() for char in url):
        raise ValueError("odd characters")
    target = URL(url)
    if target.scheme != "https" or target.explicit_port not in (None, 443):
        raise ValueError("scheme or port")
    if target.user is not None or target.password is not None or target.host not in hosts:
        raise ValueError("host")
    return target


async def look_up(host: str) -> list[str]:
    """The addresses of a host by the system's resolver."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class PublicResolver(AbstractResolver):
    """Resolves hosts to addresses of the public internet only."""

    def __init__(self, lookup: Lookup) -> None:
        """Resolve by `lookup`."""
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve a host; aiohttp connects to exactly these addresses.

        Raises:
            OSError: the host has no address, or one that is not public.
        """
        addresses = [ipaddress.ip_address(text) for text in await self._lookup(host)]
        if not addresses or not all(address.is_global for address in addresses):
            raise OSError("not a public address")
        return [_to_result(host, port, address) for address in addresses]

    async def close(self) -> None:
        """Do nothing; aiohttp closes its resolver."""


def _to_result(host: str, port: int, address: Any) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=str(address),
        port=port,
        family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
        proto=0,
        flags=socket.AI_NUMERICHOST,
    )
