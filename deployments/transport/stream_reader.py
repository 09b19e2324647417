"""The ingress's end of one stream: passes deltas on in the turn of the event loop that brings them.

No task wakes up for a delta. The request's task is needed only when the consumer cannot go on at
once, because the client reads slowly; until it can, deltas are kept, and merged so that they are
few. It is needed for the end, too.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from typing import Any

from api.errors import EngineError
from api.ports.stream import Consume, FinishReason, TextDelta
from deployments.transport.peers import DEFAULT_SETTINGS
from deployments.transport.token_messages import LeasedResult, ReplyTo, StreamDelta


class StreamReader:
    """The deltas of one request, on their way to a consumer."""

    def __init__(
        self, reply_to: ReplyTo, coalesce_deltas: int = DEFAULT_SETTINGS.coalesce_deltas
    ) -> None:
        """Start without a consumer; see `ChannelSettings.coalesce_deltas`."""
        self.reply_to = reply_to
        self.received = 0
        self.end: LeasedResult | None = None
        """The result, once it has arrived over the channel."""
        self.is_waiting = False
        """Whether the request waits for its turn in the replica: no work for it has been done."""
        self._expected: int | None = None
        self._coalesce_deltas = self._merge_at = coalesce_deltas
        self._deltas: list[StreamDelta] = []
        self._consume: Consume[Any] | None = None
        self._rest: Awaitable[None] | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    def put(self, number: int, delta: StreamDelta) -> None:
        """Add a delta, to be passed on by `flush`; a number out of order means that some are lost.

        Many deltas are merged by choice: the consumer is far behind.
        """
        if number != self.received:
            self._error = self._error or lost_part()
            return
        self.received += 1
        self._deltas.append(delta)
        if len(self._deltas) >= self._merge_at:
            self._deltas = list(_merge(self._deltas))
            self._merge_at = max(self._coalesce_deltas, 2 * len(self._deltas))

    def flush(self) -> None:
        """Pass on what has arrived, and wake the task if it is needed. Never raises."""
        if self._deltas and self._consume is not None and not self._is_held_up:
            self._pass_on(self._consume)
        is_expected = self._expected is not None and self.received >= self._expected
        if self._is_held_up or self.end is not None or is_expected:
            self.notify()

    @property
    def _is_held_up(self) -> bool:
        return self._rest is not None or self._error is not None

    def _pass_on(self, consume: Consume[Any]) -> None:
        deltas, self._deltas = self._deltas, []
        self._merge_at = self._coalesce_deltas
        try:
            self._rest = consume(deltas)
        except Exception as error:  # the other streams of this turn must go on
            self._error = error

    def start(self, consume: Consume[Any]) -> None:
        """Pass deltas to `consume` from now on, beginning with those that are here."""
        self._consume = consume
        self.flush()

    def notify(self) -> None:
        """End the current `wait`."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait for the result, for work for `catch_up`, or for `notify`. Only one task may."""
        if self.end is None and not self._is_held_up:
            await self._wait()

    async def wait_for(self, count: int) -> None:
        """Wait until this many deltas have arrived, or one is known to be lost."""
        self._expected = count
        while self.received < count and self._error is None:
            await self._wait()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def catch_up(self) -> None:
        """Await the consumer, and pass on what has arrived meanwhile, until nothing is left.

        Raises:
            EngineError: deltas were lost.
            Exception: what the consumer raised.
        """
        while True:
            if self._rest is not None:
                await self._rest  # `flush` passes nothing on meanwhile
                self._rest = None
            if self._error is not None:
                raise self._error
            if not self._deltas or self._consume is None:
                return
            self._pass_on(self._consume)


def _merge(deltas: list[StreamDelta]) -> Iterator[StreamDelta]:
    """Join texts of one choice; progress of images and deltas with extras stay as they are."""
    texts: dict[int, list[str]] = {}
    reasons: dict[int, FinishReason | None] = {}
    for delta in deltas:
        if isinstance(delta, TextDelta) and delta.extra is None:
            texts.setdefault(delta.index, []).append(delta.text)
            reasons[delta.index] = delta.finish_reason
        else:
            yield from _join(texts, reasons)
            texts.clear()
            yield delta
    yield from _join(texts, reasons)


def _join(
    texts: dict[int, list[str]], reasons: dict[int, FinishReason | None]
) -> Iterator[TextDelta]:
    for index, parts in texts.items():
        yield TextDelta(index, "".join(parts), reasons[index])


def lost_part() -> EngineError:
    """Describe deltas that never came."""
    return EngineError("A part of the answer was lost on its way.")
