"""The sending end of a ZeroMQ channel: one PUSH socket for each process that receives.

All items for a peer that are posted in one tick of the event loop go out in one message, so the
cost of a tick is constant, however many streams there are. A peer that is dead, frozen or too slow
is closed, and everything that runs through it is aborted.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from deployments.transport.addresses import find_endpoint
from deployments.transport.curve import make_curve_client
from deployments.transport.zmq_reader import ZmqReader

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """Limits and timeouts of both ends; tests shorten them."""

    high_water_messages: int = 10_000
    """Messages that a socket queues before the peer counts as too slow."""
    max_message_bytes: int = 16 * 1024 * 1024
    """The receiver disconnects a peer that sends a larger message."""
    coalesce_deltas: int = 32
    """From this many waiting deltas on, a reader gets them merged by choice."""
    handshake_ms: int = 2000
    """The receiver disconnects who has not proved by then that it knows the address."""
    connect_timeout_s: float = 2.0
    heartbeat_ms: int = 300
    """0 sends none."""
    heartbeat_timeout_ms: int = 1000
    """A peer whose machine died is noticed within the sum of the two; a dead process at once."""
    linger_ms: int = 1000
    """How long shutting down waits for messages that are not sent yet."""


DEFAULT_SETTINGS = ChannelSettings()

_UNBATCHED_BYTES = 64 * 1024

_encoder = msgspec.msgpack.Encoder()


class Abortable(Protocol):
    """What ends when its peer is lost."""

    def abort(self) -> None:
        """End: the peer is lost."""


class Peers:
    """The connected peers, by address."""

    def __init__(self, role: str, settings: ChannelSettings = DEFAULT_SETTINGS) -> None:
        """Start without sockets: each is opened with the first use of its address.

        Args:
            role: what the peers are, for the log.
            settings: limits and timeouts.
        """
        self._role = role
        self._settings = settings
        self._context = zmq.Context()
        self._peers: dict[str, Peer] = {}

    def __len__(self) -> int:
        """Number of connected peers."""
        return len(self._peers)

    @property
    def users(self) -> int:
        """Number of what would be aborted if all peers were lost."""
        return sum(len(peer.users) for peer in self._peers.values())

    def get(self, address: str) -> "Peer":
        """Return the peer at an address; connect to it if there is none."""
        peer = self._peers.get(address)
        if peer is None:
            peer = Peer(self._context, address, self._role, self._forget, self._settings)
            self._peers[address] = peer
        return peer

    def shut_down(self) -> None:
        """Close all sockets; blocks up to `linger_ms` while pending messages are sent."""
        for peer in list(self._peers.values()):
            peer.close(self._settings.linger_ms)
        self._context.term()

    def _forget(self, peer: "Peer") -> None:
        del self._peers[peer.address]


class Peer:
    """One process that receives: its socket, the items of this tick, and what depends on it."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: str,
        role: str,
        on_close: Callable[["Peer"], None],
        settings: ChannelSettings,
    ) -> None:
        """Begin to connect to `address`; `on_close` is called when the socket is closed."""
        self.address = address
        self.users: set[Abortable] = set()
        self._role = role
        self._on_close = on_close
        self._items: list[msgspec.Struct] = []
        self._loop = asyncio.get_running_loop()
        self._socket = context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, settings.high_water_messages)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, settings.heartbeat_ms)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, settings.heartbeat_timeout_ms)
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        self._monitor = ZmqReader(self._socket.get_monitor_socket(events), self._on_event)
        endpoint = find_endpoint(address)
        if endpoint.server_key is not None:
            make_curve_client(self._socket, endpoint.server_key)
        self._socket.connect(endpoint.url)
        self._connect_timer = self._loop.call_later(
            settings.connect_timeout_s, self._abort, "does not answer"
        )

    @property
    def is_closed(self) -> bool:
        """Whether the peer is lost, or was shut down."""
        return bool(self._socket.closed)

    def post(self, item: msgspec.Struct) -> None:
        """Queue an item; all items of this tick go out in one message. Never blocks."""
        if not self._items:
            self._loop.call_soon(self.flush)
        self._items.append(item)

    def post_unbatched(self, item: msgspec.Struct) -> None:
        """Send a large item in a message of its own: messages have a size limit."""
        self.flush()
        self._items.append(item)
        self.flush()

    def post_by_size(self, item: msgspec.Struct, payload_bytes: int) -> None:
        """Queue an item, or send it in a message of its own if its payload is large."""
        if payload_bytes > _UNBATCHED_BYTES:
            self.post_unbatched(item)
        else:
            self.post(item)

    def flush(self) -> None:
        """Send the items of this tick."""
        items, self._items = self._items, []  # first, so that an error here spares the next tick
        if self._socket.closed or not items:
            return  # the peer was lost and its users aborted, or the items are sent already
        try:
            self._socket.send(_encoder.encode(items), zmq.DONTWAIT)
        except zmq.Again:
            self._abort("has not read for too long")

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket; messages that are not sent yet are kept for `linger_ms`."""
        self._on_close(self)
        self._connect_timer.cancel()
        # Before the monitor is closed: ZeroMQ's thread reports events while holding a lock that
        # `disable_monitor` needs, and would wait forever for a closed monitor to read them.
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close(linger_ms)

    def _on_event(self, frames: list[bytes]) -> None:
        if parse_monitor_message(frames)["event"] == zmq.EVENT_DISCONNECTED:
            self._abort("is gone")
        else:
            self._connect_timer.cancel()

    def _abort(self, reason: str) -> None:
        """Close the connection and abort what depends on it; the next use connects again."""
        log = logger.warning if self.users else logger.debug
        log("%s %s; aborting %d streams", self._role, reason, len(self.users))
        self.close()
        for user in list(self.users):
            user.abort()
