"""The leases of one ingress replica: which request takes which, and when they are closed.

`deployments/models/leases.py` says why. Only the ingress closes a lease, and only while it is idle,
so no request meets a closed one. An idle lease is closed after a moment, so that what Serve counts
as ongoing stays true. When replicas have come or are about to go, every lease is closed as soon as
its request ends, so that new replicas get their share and the others can stop.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from api.errors import ApiError
from deployments.ingress.lease import Lease, Request
from deployments.ingress.leased_call import LeasedCall
from deployments.transport.request_channel import RequestSender
from deployments.transport.stream_reader import StreamReader
from deployments.transport.token_channel import Receiver
from deployments.transport.token_messages import Result

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """When leases are closed, and what they carry; tests change it."""

    idle_s: float = 0.2
    """An unused lease is closed after this long, or twice as long at most."""
    max_age_s: float = 60.0
    """An older lease is closed when its request ends, so that Serve balances the load anew; by
    chance one of half the age may be, so that leases opened together are not closed together."""
    max_request_bytes: int = 1024 * 1024
    """A larger request gets a new lease, so that it delays no other request's message."""
    last_deltas_timeout_s: float = 2.0
    """How long deltas may arrive after the result of the call."""


_DEFAULTS = LeaseSettings()


class LeasePool:
    """The leases of one deployment, and the requests that they serve."""

    def __init__(
        self,
        find_handle: Callable[[], "DeploymentHandle[Any]"],
        receiver: Receiver,
        sender: RequestSender,
        settings: LeaseSettings = _DEFAULTS,
    ) -> None:
        """Start without leases.

        Args:
            find_handle: makes the handle of a deployment whose replicas have a method `lease`.
                It is called for the first request: with its router and metrics a handle is dear
                in an ingress replica that no request of this model ever reaches.
            receiver: gets deltas and results.
            sender: sends the further requests.
            settings: when leases are closed.
        """
        self._find_handle = find_handle
        self._receiver = receiver
        self._sender = sender
        self.settings = settings
        self._idle: dict[str | None, list[Lease]] = {}
        self._open_leases: set[Lease] = set()
        self._calls: dict[LeasedCall[Any, Any], None] = {}
        """The open calls, in the order in which they came."""
        self._replicas: frozenset[str] = frozenset()
        self._renewed_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Number of idle leases."""
        return sum(map(len, self._idle.values()))

    @cached_property
    def _method(self) -> "DeploymentHandle[Any]":
        method: DeploymentHandle[Any] = self._find_handle().lease
        return method

    def prepare(self) -> None:
        """Make the handle now.

        It takes a moment until it knows the replicas. Serve counts requests that come meanwhile as
        queued, and an autoscaled model would get further replicas for them.
        """
        _ = self._method

    def set_replicas(self, replicas: frozenset[str]) -> None:
        """Note the ids of the running replicas: if they are others than before, renew all leases.

        Idle leases are closed now, and those in use when their request ends. If there are new
        replicas, they get their share of the requests that wait in the others.
        """
        if replicas == self._replicas:
            return
        added = replicas - self._replicas
        is_first = not self._replicas
        self._replicas = replicas
        self._renewed_s = time.monotonic()
        self._close_idle_since(float("inf"))
        if added and not is_first:
            self._move_waiting(len(added) / len(replicas))

    def _move_waiting(self, share: float) -> None:
        """Send a share of the waiting requests anew, those that came last: Serve finds replicas."""
        waiting = [call for call in self._calls if call.is_waiting]
        for call in waiting[len(waiting) - round(len(waiting) * share) :]:
            call.move()

    def give_up_waiting(self, error: ApiError) -> None:
        """Fail the requests that no replica has begun: none will come."""
        for lease in list(self._open_leases):
            lease.give_up_waiting(error)

    def open(self, request: Request[Result]) -> LeasedCall[Any, Result]:
        """Send a request, by an idle lease if there is one."""
        call: LeasedCall[Any, Result] = LeasedCall(self, request)
        self._calls[call] = None
        return call

    def forget(self, call: LeasedCall[Any, Any]) -> None:
        """Note that a call is closed."""
        self._calls.pop(call, None)

    def send(
        self, request: Request[Any], *, is_retried: bool = False
    ) -> tuple[Lease, StreamReader]:
        """Send a request, and open the reader of its answer.

        Args:
            request: what is sent.
            is_retried: open a new lease: idle ones may be of the replica that was lost.
        """
        reader = self._receiver.open()
        lease = None if is_retried else self._reuse(request, reader)
        return lease or self._open(request, reader), reader

    @property
    def has_other_replicas(self) -> bool:
        """Whether a request of a lost replica can be sent to another one at once."""
        return len(self._replicas) > 1

    def release(self, lease: Lease, reader: StreamReader) -> None:
        """Take back the lease of a request; it is kept if the result came over the channel."""
        self._receiver.close(reader)
        if reader.end is None or lease.is_ended:
            return
        lease.become_idle(reader.end.inbox)
        if lease.is_old or lease.opened_s < self._renewed_s:
            lease.close()
            return
        self._idle.setdefault(lease.adapter, []).append(lease)
        self._start_timer()

    def shut_down(self) -> None:
        """Close all idle leases."""
        if self._timer is not None:
            self._timer.cancel()
        self._close_idle_since(float("inf"))

    def _reuse(self, request: Request[Any], reader: StreamReader) -> Lease | None:
        if request.adapter not in self._idle:
            return None
        encoded = _encode(request.argument)
        if encoded is None or len(encoded) > self.settings.max_request_bytes:
            return None
        lease = self._take(request.adapter)
        if lease is not None:
            lease.send(request.method, encoded, reader)
        return lease

    def _take(self, adapter: str | None) -> Lease | None:
        """Take the lease that was used last, so that those too many stay idle and are closed."""
        leases = self._idle[adapter]
        while leases and leases[-1].is_ended:
            leases.pop()
        lease = leases.pop() if leases else None
        if not leases:
            del self._idle[adapter]
        return lease

    def _open(self, request: Request[Any], reader: StreamReader) -> Lease:
        method = self._method
        if request.adapter:  # prefer a replica that has loaded it, if one is free
            method = method.options(multiplexed_model_id=request.adapter)
        lease = Lease(method, request, reader, self._sender, self.settings.max_age_s)
        self._open_leases.add(lease)
        lease.on_end(lambda: self._open_leases.discard(lease))
        return lease

    def _start_timer(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.settings.idle_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._close_idle_since(time.monotonic() - self.settings.idle_s)
        if self._idle:
            self._start_timer()

    def _close_idle_since(self, before_s: float) -> None:
        for adapter, leases in list(self._idle.items()):
            kept = [lease for lease in leases if lease.idle_since_s > before_s]
            for lease in leases[: len(leases) - len(kept)]:  # they are in the order of their use
                lease.close()
            if kept:
                self._idle[adapter] = kept
            else:
                del self._idle[adapter]


def _encode(request: Any) -> bytes | None:
    """None if MessagePack cannot hold it, such as an integer of more than 64 bits in a schema."""
    try:
        return _encoder.encode(request)
    except (OverflowError, TypeError, ValueError, RecursionError):
        return None
