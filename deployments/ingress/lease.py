"""One lease of the ingress: an open Serve call that serves one request after the other."""

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic

import msgspec

from api.errors import ApiError, EngineError, ReplicaLostError
from deployments.ingress.replica_calls import ReplicaCall
from deployments.transport.request_channel import LeasedRequest, RequestSender, RequestWriter
from deployments.transport.stream_reader import StreamReader
from deployments.transport.token_messages import Result, StreamEnd

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

_LEASE_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Request(Generic[Result]):
    """A request to a model's replica."""

    method: str
    """Name of the replica's method."""
    argument: Any
    result_decoder: "msgspec.msgpack.Decoder[Result]"
    adapter: str | None = None
    """Replicas that have loaded it are preferred."""

    def for_retry(self) -> "Request[Result]":
        """Copy the request for another replica, after the first was lost."""
        context = replace(self.argument.context, is_retried=True)
        return replace(self, argument=replace(self.argument, context=context))


class Lease:
    """One open call of a replica, which serves one request after the other."""

    def __init__(
        self,
        method: "DeploymentHandle[Any]",
        request: Request[Any],
        reader: StreamReader,
        sender: RequestSender,
        max_age_s: float,
    ) -> None:
        """Begin the call with the first request."""
        self.adapter = request.adapter
        self.opened_s = self.idle_since_s = time.monotonic()
        self._closes_s = self.opened_s + max_age_s * random.uniform(0.5, 1.0)
        self._id = secrets.token_bytes(_LEASE_ID_BYTES)
        self._sender = sender
        self._reader: StreamReader | None = reader
        self._writer: RequestWriter | None = None
        self._error: ApiError | None = None
        self._replica_call = ReplicaCall(
            method, self._id, request.method, request.argument, reader.reply_to
        )
        calling = self._replica_call.result()
        self._call: asyncio.Task[StreamEnd[Any] | None] = asyncio.create_task(calling)
        self._call.add_done_callback(self._end)

    @property
    def is_ended(self) -> bool:
        """Whether the call has ended, its replica is lost, or it was given up."""
        return self._error is not None or self._call.done()

    @property
    def is_old(self) -> bool:
        """Whether it is to be closed now that it is idle."""
        return self.idle_since_s >= self._closes_s

    def send(self, method: str, request: bytes, reader: StreamReader) -> None:
        """Send the next request; the lease must be idle."""
        assert self._writer is not None, "a lease that was never idle"
        self._reader = reader
        self._writer.send(LeasedRequest(method, request, reader.reply_to))

    def become_idle(self, inbox: str) -> None:
        """Note that the request is answered, and where the next one goes."""
        self._reader = None
        self.idle_since_s = time.monotonic()
        if self._writer is None:
            self._writer = self._sender.open(inbox, self._id, self._lose)

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the call has ended."""
        self._call.add_done_callback(lambda _: callback())

    def close(self) -> None:
        """Let the replica end the call; the lease must be idle."""
        if self._writer is not None and not self.is_ended:
            self._writer.send_close()

    def result(self) -> StreamEnd[Any]:
        """Return the result of the ended call.

        Raises:
            ApiError: the call failed, the replica is lost, or the call was given up.
        """
        if self._error is not None:
            raise self._error
        end = self._call.result()
        if end is None:
            raise EngineError("The end of the answer was lost on its way.")
        return end

    async def cancel(self) -> None:
        """Cancel the request that is running, and with it the call. Safe to repeat."""
        self._reader = None
        self._call.cancel()
        await asyncio.wait({self._call})

    def give_up_waiting(self, error: ApiError) -> None:
        """Fail with `error`, unless a replica has the call already."""
        if not self.is_ended and self._replica_call.is_waiting:
            self._fail(error)

    def _lose(self) -> None:
        self._fail(ReplicaLostError("The replica that worked on this request was lost."))

    def _fail(self, error: ApiError) -> None:
        self._error = error
        self._call.cancel()
        self._notify()

    def _end(self, ended: "asyncio.Task[Any]") -> None:
        if not ended.cancelled():
            ended.exception()  # marks it as retrieved; an idle lease has no one to raise it to
        if self._writer is not None:
            self._writer.close()
        self._notify()

    def _notify(self) -> None:
        if self._reader is not None:
            self._reader.notify()
