"""A replica's connection to the ledger; it survives a ledger that is killed and comes back.

Every reservation and every record is kept here until the ledger has confirmed it. So the ledger
can be killed at any moment: the client tells the next one again.
"""

import asyncio
import logging
import random
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from api.access.rate_limit_headers import to_error
from api.errors import UnavailableError
from api.ports.rate_limits import Amounts, RateLimitStatus
from deployments.ledger.address import LedgerAddress
from deployments.ledger.connection import Connection
from deployments.ledger.limits.store import Reservation
from deployments.ledger.protocol import (
    Audit,
    Finish,
    FromLedger,
    Granted,
    Hello,
    KeySet,
    Recorded,
    Refused,
    Reserve,
    ServeDetails,
    Settle,
    from_ledger_decoder,
)
from deployments.ledger.records import UsageRecord

logger = logging.getLogger(__name__)

_ANSWER_TIMEOUT_S = 40.0
"""A killed ledger is back in 5 s, on a busy machine in 10 s, and in 35 s if its node is lost: Serve
and Ray must find out first. Load balancers allow 60 s of silence."""

_RETRY_S = 0.3
_MAX_RETRY_S = 2.0
"""Every replica looks for a lost ledger by asking Serve's controller, which must restart it."""
_ABSENT_RETRY_S = 5.0
_MAX_UNRECORDED = 100_000

Find = Callable[[], Awaitable[LedgerAddress | None]]
"""Finds the ledger; None if no ledger is configured."""


class LimitsUnavailableError(UnavailableError):
    """The ledger does not answer, so a key's limits cannot be enforced."""

    retry_after_s = 1


@dataclass(slots=True, eq=False)
class HeldReservation:
    """A granted reservation, until it is settled."""

    reservation: Reservation
    status: RateLimitStatus
    """When the reservation was granted."""


@dataclass(slots=True)
class _PendingReservation:
    message: Reserve
    answer: "asyncio.Future[RateLimitStatus]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class LedgerClient:
    """Reserves, settles and records; for one event loop."""

    def __init__(
        self,
        find: Find,
        on_keys: Callable[[KeySet], None] | None = None,
        on_details: Callable[[ServeDetails], None] | None = None,
        *,
        answer_timeout_s: float = _ANSWER_TIMEOUT_S,
        retry_s: float = _RETRY_S,
    ) -> None:
        """Prepare to connect to the ledger that `find` finds.

        Args:
            find: finds the ledger; called again after it raises.
            on_keys: called with all keys on each connection and whenever the keys change.
            on_details: called whenever the ledger has looked at what Serve runs.
            answer_timeout_s: how long `reserve` waits for the ledger.
            retry_s: pause before the second attempt to connect; later ones grow, up to 2 s.
        """
        self._find = find
        self._wants_keys = on_keys is not None
        self._wants_details = on_details is not None
        self._on_keys = on_keys or (lambda _: None)
        self._on_details = on_details or (lambda _: None)
        self._answer_timeout_s = answer_timeout_s
        self._retry_s = retry_s
        self._session = uuid.uuid4().hex
        self._connection: Connection | None = None
        self._pending: dict[str, _PendingReservation] = {}
        self._held: dict[str, HeldReservation] = {}
        self._unrecorded: dict[str, Finish] = {}
        self._running: asyncio.Task[None] | None = None
        self.on_recorded: Callable[[list[str]], None] = lambda ids: None
        self.on_disconnect: Callable[[], None] = lambda: None
        self.has_ledger: bool | None = None
        """None until the first lookup has succeeded."""

    def start(self) -> None:
        """Connect, and reconnect until `shut_down`."""
        self._running = asyncio.create_task(self._stay_connected())

    def shut_down(self) -> None:
        """Disconnect; the ledger then frees what was reserved."""
        if self._running is not None:
            self._running.cancel()
        if self._connection is not None:
            self._connection.close()

    def stats(self) -> dict[str, int]:
        """Counters of what is open; all 0 at rest."""
        return {
            "pending": len(self._pending),
            "reservations": len(self._held),
            "unrecorded": len(self._unrecorded),
        }

    async def reserve(self, key_id: str, amounts: Amounts) -> HeldReservation:
        """Take a part of a key's limits.

        Raises:
            RateLimitError, InsufficientQuotaError: a limit would be exceeded.
            LimitsUnavailableError: the ledger does not answer.
        """
        reservation = Reservation(uuid.uuid4().hex, key_id, amounts)
        pending = _PendingReservation(Reserve(reservation.id, key_id, amounts))
        self._pending[reservation.id] = pending
        self._send(pending.message)
        try:
            async with asyncio.timeout(self._answer_timeout_s):
                status = await pending.answer
        except TimeoutError:
            self._send(Settle(reservation.id, Amounts()))
            raise _unavailable() from None
        except (asyncio.CancelledError, GeneratorExit):  # gRPC ends a call with GeneratorExit
            self._send(Settle(reservation.id, Amounts()))
            raise
        finally:
            del self._pending[reservation.id]
        held = self._held[reservation.id] = HeldReservation(reservation, status)
        return held

    def settle(self, held: HeldReservation, used: Amounts) -> None:
        """End a reservation and report what was used of it. Safe to repeat."""
        if self._held.pop(held.reservation.id, None) is not None:
            self._send(Settle(held.reservation.id, used))

    def finish(
        self,
        record: UsageRecord,
        held: HeldReservation | None = None,
        *,
        is_repeated: bool = False,
    ) -> None:
        """Have a request's usage recorded, and its reservation settled with the record.

        Args:
            record: the usage.
            held: the request's reservation.
            is_repeated: another replica may have sent a record with this id.
        """
        if len(self._unrecorded) >= _MAX_UNRECORDED:  # the ledger has been away for very long
            if held is not None:
                self.settle(held, Amounts(tokens=record.tokens))
            return
        message = Finish(record, held.reservation.id if held else None, is_repeated)
        self._unrecorded[record.id] = message
        self._send(message)

    def replay(self, record: UsageRecord) -> None:
        """Have another replica's record recorded, unless it is in the database already."""
        message = self._unrecorded[record.id] = Finish(record, is_repeated=True)
        self._send(message)

    def audit(self, event: str, **fields: Any) -> None:
        """Write an event to the audit log; dropped while the ledger is away."""
        self._send(Audit(event, fields))

    def _send(self, message: Any) -> None:
        """Send if connected; else `_connect` repeats it, or `Hello` implies it."""
        if self._connection is not None:
            self._connection.send(message)

    async def _stay_connected(self) -> None:
        level = logging.WARNING  # once: the ledger may start as slowly as the whole service
        retry_s = self._retry_s
        while True:
            try:
                address = await self._find()
                self.has_ledger = address is not None
                if address is None:
                    self._forget_recorded(list(self._unrecorded))
                    await asyncio.sleep(_ABSENT_RETRY_S)
                    continue
                await self._connect(address)
            except Exception:  # the ledger, the controller or the network is not up yet
                logger.log(level, "the ledger cannot be reached; trying again", exc_info=True)
                level = logging.DEBUG
            else:
                level, retry_s = logging.WARNING, self._retry_s
            await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))
            retry_s = min(2 * retry_s, _MAX_RETRY_S)

    async def _connect(self, address: LedgerAddress) -> None:
        """Connect, repeat everything unanswered, and return when the connection is lost."""
        lost = asyncio.Event()
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(from_ledger_decoder, self._handle_messages, lambda _: lost.set()),
            address.host,
            address.port,
        )
        connection.send_token(address.auth_token)
        reservations = [held.reservation for held in self._held.values()]
        connection.send(
            Hello(
                self._session,
                reservations,
                list(self._pending),
                wants_keys=self._wants_keys,
                wants_details=self._wants_details,
            )
        )
        for pending in self._pending.values():
            connection.send(pending.message)
        for finish in self._unrecorded.values():
            finish.is_repeated = True
            connection.send(finish)
        self._connection = connection
        try:
            await lost.wait()
        finally:
            self._connection = None
            connection.close()
        logger.warning("the connection to the ledger is lost; reconnecting")
        self.on_disconnect()

    def _handle_messages(self, connection: Connection, messages: list[FromLedger]) -> None:
        for message in messages:
            match message:
                case Granted(reservation_id=reservation_id, status=status):
                    self._answer(reservation_id, status)
                case Refused(reservation_id=reservation_id, exceeded=exceeded):
                    self._answer(reservation_id, to_error(exceeded) if exceeded else _unavailable())
                case Recorded(ids=ids):
                    self._forget_recorded(ids)
                case KeySet():
                    self._on_keys(message)
                case ServeDetails():
                    self._on_details(message)

    def _answer(self, reservation_id: str, answer: RateLimitStatus | Exception) -> None:
        pending = self._pending.get(reservation_id)
        if pending is None or pending.answer.done():
            return  # the caller has gone, and its reservation was settled
        if isinstance(answer, Exception):
            pending.answer.set_exception(answer)
        else:
            pending.answer.set_result(answer)

    def _forget_recorded(self, ids: list[str]) -> None:
        for record_id in ids:
            finish = self._unrecorded.pop(record_id, None)
            if finish is not None and finish.reservation_id is not None:
                self._held.pop(finish.reservation_id, None)
        self.on_recorded(ids)


def _unavailable() -> LimitsUnavailableError:
    return LimitsUnavailableError(
        "The limits of this key cannot be checked at the moment; try again."
    )
