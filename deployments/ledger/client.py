"""A replica's end of its connection to the ledger, which may be gone for a while and come back.

What has been granted, asked or finished is remembered here until the ledger has said that it has
it. So it can be killed at any moment: the next one is told again.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from api.access.rate_limit_headers import to_error
from api.errors import UnavailableError
from api.ports.rate_limits import Amounts, RateLimitStatus
from deployments.ledger.address import LedgerAddress
from deployments.ledger.connection import Connection
from deployments.ledger.limits.accounts import Reservation
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
    Settle,
    from_ledger_decoder,
)
from deployments.ledger.records import UsageRecord

logger = logging.getLogger(__name__)

_ANSWER_TIMEOUT_S = 20.0
"""A ledger that was killed is back in a quarter of it, or on a busy machine in half."""

_RETRY_S = 0.3
_LOOK_AGAIN_S = 5.0
_MAX_UNRECORDED = 100_000

Find = Callable[[], Awaitable[LedgerAddress | None]]
"""Where the ledger is; None if the service has none."""


class LimitsUnavailableError(UnavailableError):
    """The ledger does not answer, and a key's limits are not to be overstepped."""

    retry_after_s = 1


@dataclass(slots=True, eq=False)
class HeldReservation:
    """A part of a key's limits that is ours until it is settled."""

    hold: Reservation
    standing: RateLimitStatus


@dataclass(slots=True)
class _PendingReservation:
    message: Reserve
    answer: "asyncio.Future[RateLimitStatus]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class LedgerClient:
    """Reserves, settles and records, on one event loop."""

    def __init__(self, find: Find, on_keys: Callable[[KeySet], None] | None = None) -> None:
        """Prepare to connect to wherever `find` says.

        Args:
            find: looks the ledger up; may raise, and is then asked again.
            on_keys: takes the keys, now and whenever they have changed.
        """
        self._find = find
        self._on_keys = on_keys
        self._session = uuid.uuid4().hex
        self._connection: Connection | None = None
        self._asking: dict[str, _PendingReservation] = {}
        self._held: dict[str, HeldReservation] = {}
        self._finished: dict[str, Finish] = {}
        self._running: asyncio.Task[None] | None = None
        self.on_recorded: Callable[[list[str]], None] = lambda ids: None
        self.on_disconnect: Callable[[], None] = lambda: None
        self.has_ledger: bool | None = None
        """None until it has been looked for."""

    def start(self) -> None:
        """Connect, and stay connected, until `shut_down`."""
        self._running = asyncio.create_task(self._stay_connected())

    def shut_down(self) -> None:
        """Leave; the ledger frees what was held."""
        if self._running is not None:
            self._running.cancel()
        if self._connection is not None:
            self._connection.close()

    def stats(self) -> dict[str, int]:
        """What is open; all 0 at rest."""
        return {
            "asking": len(self._asking),
            "held": len(self._held),
            "unrecorded": len(self._finished),
        }

    async def reserve(self, key_id: str, amounts: Amounts) -> HeldReservation:
        """Take a part of a key's limits.

        Raises:
            RateLimitError, InsufficientQuotaError: there is not so much left.
            LimitsUnavailableError: the ledger does not answer.
        """
        hold = Reservation(uuid.uuid4().hex, key_id, amounts)
        asking = self._asking[hold.id] = _PendingReservation(Reserve(hold.id, key_id, amounts))
        self._send(asking.message)
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                standing = await asking.answer
        except TimeoutError:
            self._send(Settle(hold.id, Amounts()))
            raise _unavailable() from None
        except (asyncio.CancelledError, GeneratorExit):  # the second is how gRPC ends a call
            self._send(Settle(hold.id, Amounts()))
            raise
        finally:
            del self._asking[hold.id]
        held = self._held[hold.id] = HeldReservation(hold, standing)
        return held

    def settle(self, held: HeldReservation, used: Amounts) -> None:
        """Say what a hold took. Safe to repeat."""
        if self._held.pop(held.hold.id, None) is not None:
            self._send(Settle(held.hold.id, used))

    def finish(self, record: UsageRecord, held: HeldReservation | None = None) -> None:
        """Have a request's usage recorded, and settle its hold with it."""
        if len(self._finished) >= _MAX_UNRECORDED:  # the ledger has been gone for very long
            if held is not None:
                self.settle(held, Amounts(tokens=record.tokens))
            return
        message = Finish(record, held.hold.id if held else None)
        self._finished[record.id] = message
        self._send(message)

    def repeat(self, record: UsageRecord) -> None:
        """Have a record kept that another replica left behind, and that may be kept already."""
        message = self._finished[record.id] = Finish(record, is_repeated=True)
        self._send(message)

    def audit(self, event: str, **fields: Any) -> None:
        """Write to the audit log, if the ledger is there."""
        self._send(Audit(event, fields))

    def _send(self, message: Any) -> None:
        """What cannot be sent now is said after the next `Hello`, or follows from it."""
        if self._connection is not None:
            self._connection.send(message)

    async def _stay_connected(self) -> None:
        level = logging.WARNING  # once: it may take as long as the service does to start
        while True:
            try:
                address = await self._find()
                self.has_ledger = address is not None
                if address is None:
                    self._forget(list(self._finished))  # nobody wants them
                    await asyncio.sleep(_LOOK_AGAIN_S)
                    continue
                await self._connect(address)
            except Exception:  # a ledger, controller or network that is not up yet
                logger.log(level, "the ledger cannot be reached; trying again", exc_info=True)
                level = logging.DEBUG
            else:
                level = logging.WARNING
            await asyncio.sleep(_RETRY_S)

    async def _connect(self, address: LedgerAddress) -> None:
        """Connect, say everything that has not been answered, and last as long as it lasts."""
        lost = asyncio.Event()
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(from_ledger_decoder, self._take, lambda _: lost.set()),
            address.host,
            address.port,
        )
        holds = [held.hold for held in self._held.values()]
        asked = list(self._asking)
        wants_keys = self._on_keys is not None
        connection.send(Hello(address.auth_token, self._session, holds, asked, wants_keys))
        for asking in self._asking.values():
            connection.send(asking.message)
        for finish in self._finished.values():
            finish.is_repeated = True
            connection.send(finish)
        self._connection = connection
        try:
            await lost.wait()
        finally:
            self._connection = None
            connection.close()
        logger.warning("the connection to the ledger is lost; looking for it again")
        self.on_disconnect()

    def _take(self, connection: Connection, messages: list[FromLedger]) -> None:
        for message in messages:
            match message:
                case Granted(hold_id=hold_id, standing=standing):
                    self._answer(hold_id, standing)
                case Refused(hold_id=hold_id, refusal=refusal):
                    self._answer(hold_id, to_error(refusal) if refusal else _unavailable())
                case Recorded(ids=ids):
                    self._forget(ids)
                case KeySet():
                    if self._on_keys is not None:
                        self._on_keys(message)

    def _answer(self, hold_id: str, answer: RateLimitStatus | Exception) -> None:
        asking = self._asking.get(hold_id)
        if asking is None or asking.answer.done():
            return  # it waits no more, and has said so
        if isinstance(answer, Exception):
            asking.answer.set_exception(answer)
        else:
            asking.answer.set_result(answer)

    def _forget(self, ids: list[str]) -> None:
        for record_id in ids:
            finish = self._finished.pop(record_id, None)
            if finish is not None and finish.hold_id is not None:
                self._held.pop(finish.hold_id, None)
        self.on_recorded(ids)


def _unavailable() -> LimitsUnavailableError:
    return LimitsUnavailableError(
        "The limits of this key cannot be checked at the moment; try again."
    )
