"""The token channel: what streams travels beside the unary handle call, over ZeroMQ.

Every ingress replica binds one PULL socket; every engine replica keeps one PUSH socket per ingress
replica and sends one message per event-loop tick, which holds the deltas of all requests of that
ingress. The cost per engine step is thus constant, where a Serve stream costs several hundred
microseconds per item.

The unary call's result is the truth: it says how many deltas were sent. Deltas carry the request's
ticket, 128 random bits; those with an unknown ticket are dropped and counted.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import zmq
import zmq.asyncio

from api.backends import Delta, FinishReason
from api.errors import ReplicaLost

logger = logging.getLogger(__name__)

_TICKET_BYTES = 16
_HIGH_WATER_MESSAGES = 100_000


def pick_host() -> str:
    """The address that this node's peers reach it at; the loopback one on a cluster of one node."""
    import ray

    is_alone = sum(node["Alive"] for node in ray.nodes()) == 1
    return "127.0.0.1" if is_alone else str(ray.util.get_node_ip_address())


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where the deltas of one request go."""

    address: str
    ticket: bytes


class _Item(msgspec.Struct, array_like=True, gc=False):
    """One delta on the wire."""

    ticket: bytes
    index: int
    text: str
    finish_reason: FinishReason | None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[_Item])


@dataclass(slots=True)
class Inbox:
    """What has arrived for one request and has not been taken yet."""

    reply_to: ReplyTo
    news: asyncio.Event = field(default_factory=asyncio.Event)
    received: int = 0
    _deltas: list[Delta] = field(default_factory=list)

    def put(self, delta: Delta) -> None:
        """Add what has arrived."""
        self.received += 1
        self._deltas.append(delta)
        self.news.set()

    def take(self) -> tuple[Delta, ...]:
        """Empty the inbox."""
        deltas, self._deltas = tuple(self._deltas), []
        return deltas


class Receiver:
    """The ingress replica's end: one PULL socket, and an inbox for each request under way."""

    def __init__(self, host: str) -> None:
        """Bind a free port of `host`; must be called on the event loop that will use it."""
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MESSAGES)
        port = self._socket.bind_to_random_port(f"tcp://{host}")
        self._address = f"tcp://{host}:{port}"
        self._inboxes: dict[bytes, Inbox] = {}
        self.dropped = 0
        self._reading = asyncio.create_task(self._read())

    def __len__(self) -> int:
        """How many inboxes are open."""
        return len(self._inboxes)

    def open(self) -> Inbox:
        """Make an inbox for a new request."""
        inbox = Inbox(ReplyTo(self._address, secrets.token_bytes(_TICKET_BYTES)))
        self._inboxes[inbox.reply_to.ticket] = inbox
        return inbox

    def close(self, inbox: Inbox) -> None:
        """Forget an inbox; what still arrives for it is dropped. Safe to repeat."""
        self._inboxes.pop(inbox.reply_to.ticket, None)

    async def shut_down(self) -> None:
        """Stop reading and free the socket."""
        self._reading.cancel()
        await asyncio.wait({self._reading})
        self._context.destroy(linger=0)

    async def _read(self) -> None:
        while True:
            try:
                items = _decoder.decode(await self._socket.recv())
            except msgspec.MsgspecError:
                self.dropped += 1
                continue
            for item in items:
                inbox = self._inboxes.get(item.ticket)
                if inbox is None:
                    self.dropped += 1
                else:
                    inbox.put(Delta(item.index, item.text, item.finish_reason))


class Sender:
    """The engine replica's end: one PUSH socket for each ingress replica that has asked."""

    def __init__(self) -> None:
        """Open nothing yet: sockets come with the first request of an ingress."""
        self._context = zmq.Context()
        self._outboxes: dict[str, _Outbox] = {}

    def open(self, reply_to: ReplyTo) -> "Outlet":
        """Prepare to send the deltas of one request."""
        outbox = self._outboxes.get(reply_to.address)
        if outbox is None:
            outbox = self._outboxes[reply_to.address] = _Outbox(self._context, reply_to.address)
        return Outlet(outbox.post, reply_to.ticket)

    def shut_down(self) -> None:
        """Free all sockets; what has been handed to them is still sent, for a second at most."""
        self._context.destroy(linger=1000)


class Outlet:
    """Where one request's deltas go in; counts them."""

    def __init__(self, post: Callable[[_Item], None], ticket: bytes) -> None:
        """Send through `post` under `ticket`."""
        self._post = post
        self._ticket = ticket
        self.sent = 0

    def send(self, delta: Delta) -> None:
        """Send a delta with the others of this tick; never blocks.

        Raises:
            ReplicaLost: an earlier message could not be handed over.
        """
        self._post(_Item(self._ticket, delta.index, delta.text, delta.finish_reason))
        self.sent += 1


class _Outbox:
    """The deltas of one tick for one ingress replica, and its socket."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", address: str) -> None:
        self._socket = context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, _HIGH_WATER_MESSAGES)
        self._socket.connect(address)
        self._items: list[_Item] = []
        self._is_broken = False

    def post(self, item: _Item) -> None:
        if self._is_broken:
            raise ReplicaLost("The stream was lost because its reader is gone.")
        if not self._items:
            asyncio.get_running_loop().call_soon(self._flush)
        self._items.append(item)

    def _flush(self) -> None:
        items, self._items = self._items, []  # first: whatever happens here, the next tick is free
        try:
            self._socket.send(_encoder.encode(items), zmq.DONTWAIT, copy=False)
        except zmq.Again:
            # The ingress has not read for _HIGH_WATER_MESSAGES ticks: it is gone or hung.
            self._is_broken = True
            logger.error("the token channel to one ingress replica has overflowed")
