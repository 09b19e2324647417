"""The request channel: carries further requests of leases from ingress to model replicas.

A lease is one ordinary Serve call that serves one request after the other, as a kept-alive
connection does (`deployments/models/leases.py`, `deployments/ingress/leases.py`). The call itself
carries the first request. Each model replica binds one PULL socket for those that follow; a lease
is known by its id, 128 random bits, which only its two ends know. Items with an unknown id are
dropped and counted. Deltas and results come back over the token channel.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import zmq

from deployments.transport.addresses import find_endpoint
from deployments.transport.peers import (
    DEFAULT_SETTINGS,
    ChannelSettings,
    Peer,
    Peers,
)
from deployments.transport.receiving_socket import ReceivingSocket
from deployments.transport.token_messages import ReplyTo

logger = logging.getLogger(__name__)

_SENDER_SETTINGS = ChannelSettings(connect_timeout_s=10.0, heartbeat_ms=0)
"""Patient: whether a replica is dead, the lease's own call says; a frozen one may go on."""


class _RequestItem(msgspec.Struct, array_like=True, gc=False, tag=0):
    """The next request of a lease on the wire."""

    lease_id: bytes
    method: str
    request: bytes
    reply_address: str
    stream_id: bytes


class _CloseItem(msgspec.Struct, array_like=True, gc=False, tag=1):
    """The end of a lease on the wire."""

    lease_id: bytes


_Item = _RequestItem | _CloseItem

_decoder = msgspec.msgpack.Decoder(list[_Item])


@dataclass(frozen=True, slots=True)
class LeasedRequest:
    """A further request of a lease."""

    method: str
    """Name of the replica's method."""
    request: bytes
    """Its argument as MessagePack."""
    reply_to: ReplyTo


class RequestReceiver:
    """The model replica's end: one PULL socket, and the leases that wait for a request."""

    def __init__(
        self, find_host: Callable[[], str], settings: ChannelSettings = DEFAULT_SETTINGS
    ) -> None:
        """Listen for this node, on the running event loop.

        Args:
            find_host: returns this node's address, which ingress replicas on other nodes use.
            settings: limits of the socket.
        """
        self._find_host = find_host
        self._socket = ReceivingSocket(_decoder, self._dispatch, settings)
        self._waiting: dict[bytes, asyncio.Future[LeasedRequest | None]] = {}
        self._node_address: str | None = None

    @property
    def dropped(self) -> int:
        """Messages that could not be decoded, and items with an unknown lease id."""
        return self._socket.dropped

    def __len__(self) -> int:
        """Number of leases that wait for a request."""
        return len(self._waiting)

    def find_address(self, reply_to: ReplyTo) -> str | None:
        """Return where the ingress replica that listens at `reply_to` reaches this socket.

        None if the socket cannot listen there.
        """
        if find_endpoint(reply_to.address).server_key is None:
            return self._socket.address
        if self._node_address is None:
            try:
                self._node_address = self._socket.listen_at(self._find_host())
            except zmq.ZMQError:  # the next request tries again
                logger.exception("cannot listen for requests from other nodes")
        return self._node_address

    def expect(self, lease_id: bytes) -> "asyncio.Future[LeasedRequest | None]":
        """Return a future for the lease's next request; its result is None if it is closed."""
        following: asyncio.Future[LeasedRequest | None]
        following = self._waiting[lease_id] = asyncio.get_running_loop().create_future()
        return following

    def forget(self, lease_id: bytes) -> None:
        """Drop what arrives for a lease from now on."""
        self._waiting.pop(lease_id, None)

    def shut_down(self) -> None:
        """Close the socket."""
        self._socket.shut_down()

    def _dispatch(self, items: list[_Item]) -> None:
        for item in items:
            following = self._waiting.pop(item.lease_id, None)
            if following is None or following.done():
                self._socket.dropped += 1
            elif isinstance(item, _CloseItem):
                following.set_result(None)
            else:
                reply_to = ReplyTo(item.reply_address, item.stream_id)
                following.set_result(LeasedRequest(item.method, item.request, reply_to))


class RequestSender:
    """The ingress replica's end: one PUSH socket per model replica."""

    def __init__(self, settings: ChannelSettings = _SENDER_SETTINGS) -> None:
        """Start without sockets: each is opened when the first lease of a replica is idle."""
        self._peers = Peers("a model replica", settings)

    @property
    def peers(self) -> int:
        """Number of connected model replicas."""
        return len(self._peers)

    def open(self, address: str, lease_id: bytes, on_lost: Callable[[], None]) -> "RequestWriter":
        """Open a writer for the further requests of one lease.

        Args:
            address: of the replica's receiver.
            lease_id: of the lease.
            on_lost: called once if the replica is lost before the writer is closed.
        """
        return RequestWriter(self._peers.get(address), lease_id, on_lost)

    def shut_down(self) -> None:
        """Close all sockets; blocks up to `linger_ms` while pending messages are sent."""
        self._peers.shut_down()


class RequestWriter:
    """Sends the further requests of one lease."""

    def __init__(self, peer: Peer, lease_id: bytes, on_lost: Callable[[], None]) -> None:
        """Send to `peer`, and be told when it is lost."""
        self._peer = peer
        self._lease_id = lease_id
        self._on_lost = on_lost
        peer.users.add(self)

    def send(self, request: LeasedRequest) -> None:
        """Queue the next request; all items of this tick go out in one message. Never blocks."""
        reply_to = request.reply_to
        item = _RequestItem(
            self._lease_id, request.method, request.request, reply_to.address, reply_to.stream_id
        )
        self._peer.post_by_size(item, len(request.request))

    def send_close(self) -> None:
        """End the lease, after its last request has been answered."""
        self._peer.post(_CloseItem(self._lease_id))

    def close(self) -> None:
        """Stop watching the replica. Safe to repeat."""
        self._peer.users.discard(self)

    def abort(self) -> None:
        """Tell the lease that the replica is lost."""
        self.close()
        self._on_lost()
