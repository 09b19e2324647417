"""Lets only those speak to the ledger who were told its address.

A client's first bytes are the ledger's token, which is part of the address. Until they are here
nothing is decoded and nothing is kept.
"""

import asyncio
import hmac
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from deployments.ledger.connection import Connection

logger = logging.getLogger(__name__)

TOKEN_BYTES = 32
MAX_FRAME_BYTES = 4 * 1024 * 1024
"""What the ledger takes from a client: 1,000 usage records have half of it at most."""

_TIMEOUT_S = 2.0
_MAX_WAITING = 256
_MAX_CLIENTS = 10_000
_LOG_INTERVAL_S = 60.0


class Gate:
    """The connections of one ledger: those without a valid token yet, and those with one."""

    def __init__(
        self,
        token: bytes,
        *,
        timeout_s: float = _TIMEOUT_S,
        max_waiting: int = _MAX_WAITING,
        max_clients: int = _MAX_CLIENTS,
    ) -> None:
        """Start without connections.

        Args:
            token: lets a client in.
            timeout_s: most time for a client to say it.
            max_waiting: connections without it; one more disconnects the one that waits longest,
                because a client says it at once.
            max_clients: connections with it.
        """
        self._token = token
        self._timeout_s = timeout_s
        self._max_waiting = max_waiting
        self._max_clients = max_clients
        self._waiting: dict[GuardedConnection, asyncio.TimerHandle] = {}
        self._clients: set[GuardedConnection] = set()
        self._refused = 0
        self._logged_s = -_LOG_INTERVAL_S

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._waiting) + len(self._clients)

    def enter(self, connection: "GuardedConnection") -> None:
        """Let a new connection wait for its token."""
        if len(self._waiting) >= self._max_waiting:
            self._refuse(next(iter(self._waiting)))
        loop = asyncio.get_running_loop()
        self._waiting[connection] = loop.call_later(self._timeout_s, self._refuse, connection)

    def admit(self, connection: "GuardedConnection", token: bytes) -> bool:
        """Check the token of a waiting connection; disconnects it if the token is wrong."""
        is_right = hmac.compare_digest(token, self._token)
        if not is_right or len(self._clients) >= self._max_clients:
            self._refuse(connection)
            return False
        self._stop_waiting(connection)
        self._clients.add(connection)
        return True

    def leave(self, connection: "GuardedConnection") -> None:
        """Forget a connection that is closed."""
        self._stop_waiting(connection)
        self._clients.discard(connection)

    def _stop_waiting(self, connection: "GuardedConnection") -> None:
        if timer := self._waiting.pop(connection, None):
            timer.cancel()

    def _refuse(self, connection: "GuardedConnection") -> None:
        self._stop_waiting(connection)
        connection.close()
        self._refused += 1
        now_s = time.monotonic()
        if now_s - self._logged_s >= _LOG_INTERVAL_S:  # who floods the port shall not fill the log
            logger.warning("refused %d connections without a valid token", self._refused)
            self._refused, self._logged_s = 0, now_s


class GuardedConnection(Connection):
    """The ledger's end of a connection."""

    def __init__(
        self,
        gate: Gate,
        decoder: "msgspec.msgpack.Decoder[Any]",
        on_messages: Callable[[Connection, list[Any]], None],
        on_disconnect: Callable[[Connection], None],
    ) -> None:
        """Pass messages to `on_messages` once `gate` has admitted the client."""
        super().__init__(decoder, on_messages, on_disconnect, max_frame_bytes=MAX_FRAME_BYTES)
        self._gate = gate
        self._token = b""
        self._is_admitted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        super().connection_made(transport)
        self._gate.enter(self)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if not self._is_admitted:
            self._token += data
            if len(self._token) < TOKEN_BYTES:
                return
            self._token, data = self._token[:TOKEN_BYTES], self._token[TOKEN_BYTES:]
            if not self._gate.admit(self, self._token):
                return
            self._is_admitted = True
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._gate.leave(self)
        super().connection_lost(exc)
