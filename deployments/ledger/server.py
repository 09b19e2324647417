"""The ledger's end of its connections: grants and settles holds, and records usage in groups."""

import asyncio
import hmac
import logging
import secrets
from dataclasses import dataclass, field
from typing import Any

from api.errors import Unavailable
from api.ports.rate_limits import Refusal
from deployments.ledger.address import LedgerAddress
from deployments.ledger.audit_log import AuditLog
from deployments.ledger.connection import Connection
from deployments.ledger.limits.store import LimitStore
from deployments.ledger.protocol import (
    Audit,
    Finish,
    Granted,
    Hello,
    KeySet,
    Refused,
    Reserve,
    Settle,
    ToLedger,
    to_ledger_decoder,
)
from deployments.ledger.recorder import Recorder, UsageTable

logger = logging.getLogger(__name__)

_TICKET_BYTES = 16
_GRACE_S = 3.0
"""A session that is gone for longer is dead, and what it held is free."""

_GRACE_AT_START_S = 10.0
"""Those that knew an earlier ledger have to find this one first."""

_RENEWAL_S = 1.0


@dataclass(slots=True, eq=False)
class _Caller:
    """A connection that has said who it is, and what it has said since."""

    connection: Connection
    session: str
    wants_keys: bool
    messages: "asyncio.Queue[ToLedger]" = field(default_factory=asyncio.Queue)
    serving: "asyncio.Task[None] | None" = None


class LedgerServer:
    """Listens at a free port; on one event loop."""

    def __init__(self, limits: LimitStore, usage: UsageTable, audit: AuditLog) -> None:
        """Keep limits, usage and the audit log in the given places."""
        self._limits = limits
        self._recorder = Recorder(limits, usage)
        self._audit = audit
        self._ticket = secrets.token_bytes(_TICKET_BYTES)
        self._callers: dict[Connection, _Caller] = {}
        self._leaving: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._keys: KeySet | None = None
        self._is_told = asyncio.Event()

    async def listen(self, host: str) -> LedgerAddress:
        """Begin; what the last ledger's sessions held is theirs for a while."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(to_ledger_decoder, self._take, self._lose), host, 0
        )
        for session in await self._limits.sessions():
            self._leave(session, _GRACE_AT_START_S)
        self._start(self._recorder.run())
        self._start(self._renew())
        return LedgerAddress(host, self._server.sockets[0].getsockname()[1], self._ticket)

    def shut_down(self) -> None:
        """End all connections; the other ends try to find the next ledger."""
        self._server.close()
        for connection in list(self._callers):
            connection.close()
        for task in self._tasks:
            task.cancel()

    def publish(self, keys: KeySet | None) -> None:
        """Tell all who want keys, now and later, of these; None says that they cannot be read.

        Callers are heard from the first time on.
        """
        self._keys = keys
        self._is_told.set()
        if keys is not None:
            for caller in self._callers.values():
                if caller.wants_keys:
                    caller.connection.send(keys)

    def counts(self) -> dict[str, int]:
        """Who is connected, and what is not recorded yet."""
        return {"callers": len(self._callers), "unrecorded": self._recorder.waiting}

    def _start(self, work: Any) -> "asyncio.Task[None]":
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _take(self, connection: Connection, messages: list[ToLedger]) -> None:
        caller = self._callers.get(connection)
        if caller is None:
            hello = messages[0] if messages else None
            if not isinstance(hello, Hello) or not hmac.compare_digest(hello.ticket, self._ticket):
                logger.warning("somebody without a ticket called the ledger, and was cut off")
                connection.close()
                return
            caller = _Caller(connection, hello.session, hello.wants_keys)
            self._callers[connection] = caller
            self._stay(hello.session)
            caller.serving = self._start(self._serve(caller))
        for message in messages:
            caller.messages.put_nowait(message)

    async def _serve(self, caller: _Caller) -> None:
        """Answer one caller's messages in their order."""
        await self._is_told.wait()  # a ledger that has just come back is about to read the keys
        while True:
            answers: list[Any] = []
            message = await caller.messages.get()
            while True:
                try:
                    answers += await self._handle(caller, message)
                except Exception:  # others', and this caller's next, are not to suffer
                    logger.exception("the ledger failed at a message")
                if caller.messages.empty():
                    break
                message = caller.messages.get_nowait()
            await self._limits.flush()  # before anybody relies on it
            for answer in answers:
                caller.connection.send(answer)

    async def _handle(self, caller: _Caller, message: ToLedger) -> list[Any]:
        match message:
            case Reserve():
                return [await self._reserve(caller.session, message)]
            case Settle(hold_id=hold_id, used=used):
                await self._limits.settle(hold_id, used)
            case Finish():
                self._recorder.add(message, caller.connection.send)
            case Audit(event=event, fields=fields):
                self._audit.write(event, **fields)
            case Hello():
                await self._limits.adopt(caller.session, message.holds, message.asked)
                if caller.wants_keys and self._keys is not None:
                    return [self._keys]
        return []

    async def _reserve(self, session: str, message: Reserve) -> Granted | Refused:
        if self._keys is None:  # nobody knows yet which limits there are
            return Refused(message.hold_id, None)
        try:
            outcome = await self._limits.reserve(
                session, message.hold_id, message.key_id, message.amounts
            )
        except Unavailable as error:
            logger.error("limits cannot be checked: %s", error)
            return Refused(message.hold_id, None)
        if isinstance(outcome, Refusal):
            return Refused(message.hold_id, outcome)
        return Granted(message.hold_id, outcome)

    def _lose(self, connection: Connection) -> None:
        caller = self._callers.pop(connection, None)
        if caller is None:
            return
        if caller.serving is not None:
            caller.serving.cancel()
        if all(other.session != caller.session for other in self._callers.values()):
            self._leave(caller.session, _GRACE_S)

    def _leave(self, session: str, after_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._leaving[session] = loop.call_later(after_s, lambda: self._start(self._drop(session)))

    def _stay(self, session: str) -> None:
        if timer := self._leaving.pop(session, None):
            timer.cancel()

    async def _drop(self, session: str) -> None:
        self._leaving.pop(session, None)
        await self._limits.drop_session(session)
        await self._limits.flush()

    async def _renew(self) -> None:
        """Keep the leases of those who are there, where holds are leases."""
        while True:
            await asyncio.sleep(_RENEWAL_S)
            for session in {caller.session for caller in self._callers.values()}:
                try:
                    await self._limits.renew(session)
                except Unavailable as error:
                    logger.error("limits cannot be renewed: %s", error)
