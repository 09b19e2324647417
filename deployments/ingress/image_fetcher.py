"""Pictures behind https URLs, from hosts that the operator names and from nowhere else.

Whoever may name a URL could make the service talk to machines that only it can reach. So one parser
reads the URL, the one that the client library uses too; the host must be listed; its addresses are
looked up once, must be public, and are the ones connected to; nothing is followed, and every
failure sounds the same. Source: hardening guide, guard G13.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from api.errors import InvalidImageError

logger = logging.getLogger(__name__)

_TIMEOUT_S = 5.0
_PIECE_BYTES = 65_536

Lookup = Callable[[str], Awaitable[list[str]]]
"""Host → its addresses."""


class HttpsImages:
    """An `ImageFetcher` for some hosts."""

    def __init__(self, hosts: frozenset[str], lookup: Lookup | None = None) -> None:
        """Fetch from `hosts` only; `lookup` stands in for the name service in tests."""
        self._hosts = hosts
        self._resolver = PublicResolver(lookup or look_up)

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        """The bytes at a URL.

        Raises:
            InvalidImageError: it may not be fetched, or cannot be; why is only in the log.
        """
        try:
            target = to_target(url, self._hosts)
            async with asyncio.timeout(_TIMEOUT_S):
                return await self._get(target, max_bytes)
        except (ValueError, OSError, TimeoutError, aiohttp.ClientError) as error:
            logger.info("an image was not fetched: %s", type(error).__name__)
            raise InvalidImageError("An image URL cannot be used.", param="messages") from None

    async def _get(self, url: URL, max_bytes: int) -> bytes:
        connector = aiohttp.TCPConnector(resolver=self._resolver, use_dns_cache=False)
        async with (
            aiohttp.ClientSession(connector=connector, auto_decompress=False) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            data = bytearray()
            async for piece in response.content.iter_chunked(_PIECE_BYTES):
                data += piece
                if len(data) > max_bytes:
                    raise ValueError("too large")
            return bytes(data)


def to_target(url: str, hosts: frozenset[str]) -> URL:
    """A URL that may be asked for.

    Raises:
        ValueError: it is anything but plain https to one of the hosts, at the usual port.
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
    """The addresses of a host, as the system knows them."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class PublicResolver(AbstractResolver):
    """Finds only addresses of the public internet."""

    def __init__(self, lookup: Lookup) -> None:
        """Ask `lookup`."""
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Called by aiohttp; what it gets is what it connects to.

        Raises:
            OSError: one of the addresses is not public.
        """
        addresses = [ipaddress.ip_address(text) for text in await self._lookup(host)]
        if not addresses or not all(address.is_global for address in addresses):
            raise OSError("not a public address")
        return [_to_result(host, port, address) for address in addresses]

    async def close(self) -> None:
        """Nothing to close."""


def _to_result(host: str, port: int, address: Any) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=str(address),
        port=port,
        family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
        proto=0,
        flags=socket.AI_NUMERICHOST,
    )
