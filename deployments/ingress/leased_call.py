"""One request under way, from the ingress's end; it may be sent to more than one replica."""

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from api.errors import EngineError, ReplicaLostError
from api.ports.stream import Consume, ImageProgress, TextDelta
from deployments.ingress.lease import Request
from deployments.transport.stream_reader import lost_part
from deployments.transport.token_messages import Result

if TYPE_CHECKING:
    from deployments.ingress.leases import LeasePool

Item = TypeVar("Item", TextDelta, ImageProgress)

logger = logging.getLogger(__name__)


class _MovedError(Exception):
    """The request is to be sent to another replica, and nothing was done for it in the first."""


class LeasedCall(Generic[Item, Result]):
    """One request under way: its deltas and its result arrive over the token channel."""

    def __init__(self, pool: "LeasePool", request: Request[Result]) -> None:
        """Send a request by a lease of `pool`."""
        self._pool = pool
        self._request = request
        self._lease, self._reader = pool.send(request)
        self._must_move = False
        self._is_closed = False

    @property
    def is_waiting(self) -> bool:
        """Whether the request waits for its turn in its replica."""
        return self._reader.is_waiting and not self._reader.received

    def move(self) -> None:
        """Send the request to another replica, if it is still waiting."""
        self._must_move = True
        self._reader.notify()

    async def result(self) -> Result:
        """Return the result of a request that sends no deltas.

        Raises:
            ApiError: the request failed.
        """
        try:
            return await self.forward(_ignore)
        finally:
            await self.aclose()

    async def forward(self, consume: Consume[Item]) -> Result:
        """See `ModelStream`. If the replica is lost before a delta has come, try once more."""
        can_retry = True
        while True:
            try:
                return await self._forward(consume)
            except _MovedError:
                pass
            except ReplicaLostError:
                if self._reader.received or not (can_retry and self._pool.has_other_replicas):
                    raise
                can_retry = False
                request_id = self._request.argument.request_id
                logger.warning("request %s: its replica was lost; sent to another", request_id)
            await self._resend()

    async def _resend(self) -> None:
        self._must_move = False
        self._pool.release(self._lease, self._reader)
        await self._lease.cancel()
        request = self._request.for_retry()
        self._lease, self._reader = self._pool.send(request, is_retried=True)

    async def _forward(self, consume: Consume[Item]) -> Result:
        """End when as many deltas have come as the result says were sent."""
        reader, lease = self._reader, self._lease
        reader.start(consume)
        while reader.end is None and not lease.is_ended:
            if self._must_move and self.is_waiting:
                raise _MovedError
            await reader.wait()
            await reader.catch_up()
        await reader.catch_up()
        if reader.end is None:
            end = lease.result()
            await self._wait_for_deltas(end.deltas_sent)
            result: Result = end.completion
            return result
        if reader.received != reader.end.deltas_sent:
            raise lost_part()
        return self._decode(reader.end.result)

    def _decode(self, result: bytes) -> Result:
        try:
            return self._request.result_decoder.decode(result)
        except msgspec.DecodeError as error:  # the replica has another version
            raise EngineError("The model failed to answer this request.") from error

    async def _wait_for_deltas(self, count: int) -> None:
        try:
            async with asyncio.timeout(self._pool.settings.last_deltas_timeout_s):
                await self._reader.wait_for(count)
        except TimeoutError:
            raise EngineError("The end of the answer was lost on its way.") from None
        await self._reader.catch_up()

    async def aclose(self) -> None:
        """Cancel the request if it is still running, and close the reader. Safe to repeat."""
        if self._is_closed:
            return
        self._is_closed = True
        self._pool.forget(self)
        self._pool.release(self._lease, self._reader)
        if self._reader.end is None:
            await self._lease.cancel()


def _ignore(_: Sequence[Any]) -> None:
    pass
