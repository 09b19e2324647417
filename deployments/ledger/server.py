"""The ledger's end of its connections: grants and settles reservations, and records usage."""

import asyncio
import logging
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from api.errors import UnavailableError
from api.ports.rate_limits import LimitExceeded
from deployments.ledger.address import LedgerAddress
from deployments.ledger.audit_log import AuditLog
from deployments.ledger.connection import Connection
from deployments.ledger.gate import TOKEN_BYTES, Gate, GuardedConnection
from deployments.ledger.limits.store import LimitStore
from deployments.ledger.protocol import (
    Audit,
    Finish,
    Granted,
    Hello,
    KeySet,
    Refused,
    Reserve,
    ServeDetails,
    Settle,
    ToLedger,
    to_ledger_decoder,
)
from deployments.ledger.recorder import Recorder

logger = logging.getLogger(__name__)

_GRACE_S = 3.0
"""A session disconnected for longer is dead; its reservations are freed."""

_GRACE_AT_START_S = 10.0
"""Longer, because the clients of an earlier ledger have to find this one first."""

_RENEWAL_S = 1.0


@dataclass(slots=True, eq=False)
class _ClientSession:
    """An authenticated connection and its unanswered messages."""

    connection: Connection
    session: str
    wants_keys: bool
    wants_details: bool
    messages: "asyncio.Queue[ToLedger]" = field(default_factory=asyncio.Queue)
    serving: "asyncio.Task[None] | None" = None


class LedgerServer:
    """Listens on a free port; for one event loop."""

    def __init__(
        self,
        limits: LimitStore,
        recorder: Recorder,
        audit: AuditLog,
        *,
        grace_s: float = _GRACE_S,
        grace_at_start_s: float = _GRACE_AT_START_S,
    ) -> None:
        """Serve the given limits, recorder and audit log.

        Args:
            limits: where requests are reserved.
            recorder: writes usage; `listen` runs it.
            audit: for the events that clients send.
            grace_s: how long a disconnected session keeps its reservations.
            grace_at_start_s: the same for the sessions of an earlier ledger.
        """
        self._limits = limits
        self._recorder = recorder
        self._audit = audit
        self._grace_s = grace_s
        self._grace_at_start_s = grace_at_start_s
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self._gate = Gate(self._token)
        self._clients: dict[Connection, _ClientSession] = {}
        self._expiring: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._keys: KeySet | None = None
        self._details: bytes | None = None
        self._is_published = asyncio.Event()

    async def listen(self, host: str) -> LedgerAddress:
        """Start to serve; returns the address that clients connect to."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: GuardedConnection(
                self._gate, to_ledger_decoder, self._handle_messages, self._disconnect
            ),
            host,
            0,
        )
        for session in await self._limits.sessions():
            self._schedule_expiry(session, self._grace_at_start_s)
        self._start(self._recorder.run())
        self._start(self._renew_leases())
        return LedgerAddress(host, self._server.sockets[0].getsockname()[1], self._token)

    def shut_down(self) -> None:
        """Close all connections; the clients look for the next ledger."""
        self._server.close()
        for connection in list(self._clients):
            connection.close()
        for task in self._tasks:
            task.cancel()

    def publish(self, keys: KeySet | None) -> None:
        """Send the keys to all clients that want them, now and when they connect.

        Clients are answered from the first call on.

        Args:
            keys: None if they have never been read; reservations are then refused.
        """
        self._keys = keys
        self._is_published.set()
        if keys is not None:
            for client in self._clients.values():
                if client.wants_keys:
                    client.connection.send(keys)

    def publish_details(self, packed: bytes) -> None:
        """Send what Serve runs to all clients that want it, now and when they connect.

        Args:
            packed: by `deployments.discovery.pack_details`; sent only if it has changed.
        """
        message = ServeDetails(None if packed == self._details else packed)
        self._details = packed
        for client in self._clients.values():
            if client.wants_details:
                client.connection.send(message)

    def stats(self) -> dict[str, int]:
        """The number of connected clients, and of records that are not written yet."""
        return {"clients": len(self._clients), "unrecorded": self._recorder.waiting}

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _handle_messages(self, connection: Connection, messages: list[ToLedger]) -> None:
        client = self._clients.get(connection)
        if client is None:
            hello = messages[0] if messages else None
            if not isinstance(hello, Hello):
                connection.close()
                return
            client = _ClientSession(
                connection, hello.session, hello.wants_keys, hello.wants_details
            )
            self._clients[connection] = client
            self._cancel_expiry(hello.session)
            if client.wants_details and self._details is not None:
                connection.send(ServeDetails(self._details))
            client.serving = self._start(self._serve(client))
        for message in messages:
            client.messages.put_nowait(message)

    async def _serve(self, client: _ClientSession) -> None:
        """Answer one client's messages in order."""
        await self._is_published.wait()  # a restarted ledger is about to read the keys
        while True:
            answers: list[Any] = []
            message = await client.messages.get()
            while True:
                try:
                    answers += await self._handle(client, message)
                except Exception:  # one bad message must not end the session
                    logger.exception("the ledger failed at a message")
                if client.messages.empty():
                    break
                message = client.messages.get_nowait()
            await self._limits.flush()  # a grant must be durable before the client acts on it
            for answer in answers:
                client.connection.send(answer)

    async def _handle(self, client: _ClientSession, message: ToLedger) -> list[Any]:
        match message:
            case Reserve():
                return [await self._reserve(client.session, message)]
            case Settle(reservation_id=reservation_id, used=used):
                await self._limits.settle(reservation_id, used)
            case Finish():
                self._recorder.add(message, client.connection.send)
            case Audit(event=event, fields=fields):
                self._audit.write(event, **fields)
            case Hello():
                await self._limits.restore_session(
                    client.session, message.reservations, message.pending_ids
                )
                if client.wants_keys and self._keys is not None:
                    return [self._keys]
        return []

    async def _reserve(self, session: str, message: Reserve) -> Granted | Refused:
        if self._keys is None:  # the limits are not known yet
            return Refused(message.reservation_id, None)
        try:
            outcome = await self._limits.reserve(
                session, message.reservation_id, message.key_id, message.amounts
            )
        except UnavailableError as error:
            logger.error("limits cannot be checked: %s", error)
            return Refused(message.reservation_id, None)
        if isinstance(outcome, LimitExceeded):
            return Refused(message.reservation_id, outcome)
        return Granted(message.reservation_id, outcome)

    def _disconnect(self, connection: Connection) -> None:
        client = self._clients.pop(connection, None)
        if client is None:
            return
        if client.serving is not None:
            client.serving.cancel()
        if all(other.session != client.session for other in self._clients.values()):
            self._schedule_expiry(client.session, self._grace_s)

    def _schedule_expiry(self, session: str, after_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._expiring[session] = loop.call_later(
            after_s, lambda: self._start(self._expire(session))
        )

    def _cancel_expiry(self, session: str) -> None:
        if timer := self._expiring.pop(session, None):
            timer.cancel()

    async def _expire(self, session: str) -> None:
        self._expiring.pop(session, None)
        await self._limits.drop_session(session)
        await self._limits.flush()

    async def _renew_leases(self) -> None:
        """Renew the leases of all connected sessions."""
        while True:
            await asyncio.sleep(_RENEWAL_S)
            for session in {client.session for client in self._clients.values()}:
                try:
                    await self._limits.renew(session)
                except UnavailableError as error:
                    logger.error("limits cannot be renewed: %s", error)
