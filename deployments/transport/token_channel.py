"""The token channel: what streams travels beside the unary handle call, over ZeroMQ.

Every ingress replica binds one PULL socket; every engine replica keeps one PUSH socket per ingress
replica and sends one message per event-loop tick, which holds the deltas of all requests of that
ingress. The cost per engine step is thus constant, where a Serve stream costs several hundred
microseconds per item.

The unary call's result is the truth: it says how many deltas were sent. Deltas carry the request's
ticket, 128 random bits, and a number: those with an unknown ticket are dropped and counted, and a
gap in the numbers breaks the stream. An ingress that is gone, hung or overrun loses its connection,
and the engine's work for it is cancelled.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from api.errors import ReplicaLostError
from api.ports.stream import Delta, Extra, FinishReason
from deployments.transport.zmq_reader import Reader

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

_STREAM_ID_BYTES = 16
_HIGH_WATER_MESSAGES = 10_000
_MAX_MESSAGE_BYTES = 16 * 1024 * 1024
_COALESCE_DELTAS = 32

_CONNECT_TIMEOUT_S = 2.0
_HEARTBEAT_MS = 300
_HEARTBEAT_TIMEOUT_MS = 1000
"""A peer that died with its machine is noticed within the sum of the two; others at once."""

_LINGER_MS = 1000


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where the deltas of one request go."""

    address: str
    stream_id: bytes


class _Item(msgspec.Struct, array_like=True, gc=False):
    """One delta on the wire; `number` counts those of one ticket from 0 on."""

    stream_id: bytes
    number: int
    index: int
    text: str
    finish_reason: FinishReason | None
    extra: Extra | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[_Item])


class StreamReader:
    """What has arrived for one request and has not been taken yet."""

    def __init__(self, reply_to: ReplyTo) -> None:
        """Start empty."""
        self.reply_to = reply_to
        self.received = 0
        self.has_gap = False
        self._deltas: list[Delta] = []
        self._waiter: asyncio.Future[None] | None = None

    def put(self, number: int, delta: Delta) -> None:
        """Add what has arrived; a delta that is not the next one means that some were lost."""
        if number == self.received:
            self.received += 1
            self._deltas.append(delta)
        else:
            self.has_gap = True
        self.notify()

    def drain(self) -> list[Delta]:
        """Empty the inbox; a reader that has fallen far behind gets one delta for each choice."""
        deltas, self._deltas = self._deltas, []
        return deltas if len(deltas) < _COALESCE_DELTAS else _merge(deltas)

    def notify(self) -> None:
        """Let whoever waits look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until there is something to take, or for `wake`; only one may wait."""
        if self._deltas:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


def _merge(deltas: list[Delta]) -> list[Delta]:
    if any(delta.extra for delta in deltas):
        return deltas
    texts: dict[int, list[str]] = {}
    reasons: dict[int, FinishReason | None] = {}
    for delta in deltas:
        texts.setdefault(delta.index, []).append(delta.text)
        reasons[delta.index] = delta.finish_reason
    return [Delta(index, "".join(parts), reasons[index]) for index, parts in texts.items()]


class Receiver:
    """The ingress replica's end: one PULL socket, and an inbox for each request under way."""

    def __init__(self, host: str = LOOPBACK) -> None:
        """Listen at a free port of `host`; on the event loop that will use it."""
        self._context = zmq.Context()
        socket = self._context.socket(zmq.PULL)
        socket.setsockopt(zmq.RCVHWM, _HIGH_WATER_MESSAGES)
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)  # whoever sends more is cut off
        self._reader = Reader(socket, self._dispatch)
        self._readers: dict[bytes, StreamReader] = {}
        self.dropped = 0
        self.listen_at(host)

    def __len__(self) -> int:
        """How many inboxes are open."""
        return len(self._readers)

    def listen_at(self, host: str) -> None:
        """Listen at another address too; new requests are answered there."""
        port = self._reader.socket.bind_to_random_port(f"tcp://{host}")
        self._address = f"tcp://{host}:{port}"

    def open(self) -> StreamReader:
        """Make an inbox for a new request."""
        reader = StreamReader(ReplyTo(self._address, secrets.token_bytes(_STREAM_ID_BYTES)))
        self._readers[reader.reply_to.stream_id] = reader
        return reader

    def close(self, reader: StreamReader) -> None:
        """Forget an inbox; what still arrives for it is dropped. Safe to repeat."""
        self._readers.pop(reader.reply_to.stream_id, None)

    def shut_down(self) -> None:
        """Stop reading and free the socket."""
        self._reader.close()
        self._context.destroy(linger=0)

    def _dispatch(self, frames: list[bytes]) -> None:
        try:
            items = _decoder.decode(frames[0])
        except msgspec.MsgspecError:
            self.dropped += 1
            return
        for item in items:
            reader = self._readers.get(item.stream_id)
            if reader is None:
                self.dropped += 1
                continue
            reader.put(item.number, Delta(item.index, item.text, item.finish_reason, item.extra))


class Sender:
    """The engine replica's end: one PUSH socket for each ingress replica that has asked."""

    def __init__(self) -> None:
        """Open nothing yet: sockets come with the first request of an ingress."""
        self._context = zmq.Context()
        self._peers: dict[str, _Peer] = {}

    @property
    def peers(self) -> int:
        """How many ingress replicas there is a socket for."""
        return len(self._peers)

    @property
    def writers(self) -> int:
        """How many requests are being answered."""
        return sum(len(peer.writers) for peer in self._peers.values())

    def open(self, reply_to: ReplyTo) -> "StreamWriter":
        """Prepare to send the deltas of one request."""
        peer = self._peers.get(reply_to.address)
        if peer is None:
            peer = _Peer(self._context, reply_to.address, self._forget)
            self._peers[reply_to.address] = peer
        return StreamWriter(peer, reply_to.stream_id)

    def shut_down(self) -> None:
        """Free all sockets; what has been handed to them is still sent, for a second at most."""
        for peer in list(self._peers.values()):
            peer.close(linger_ms=_LINGER_MS)
        self._context.term()

    def _forget(self, peer: "_Peer") -> None:
        del self._peers[peer.address]


class StreamWriter:
    """Where one request's deltas go in, from within the `with` block that produces them.

    When the reader is lost, the block's task is cancelled and the block raises `ReplicaLostError`.
    """

    def __init__(self, peer: "_Peer", stream_id: bytes) -> None:
        """Send to `peer` under `ticket`."""
        self._peer = peer
        self._stream_id = stream_id
        self._is_lost = False
        self.sent = 0
        self.first_s: float | None = None
        """When the first delta was sent, by the monotonic clock."""
        self.finish_reason: FinishReason | None = None
        """Of the choice that ended first."""

    def send(self, delta: Delta) -> None:
        """Send a delta with the others of this tick; never blocks."""
        item = _Item(
            self._stream_id, self.sent, delta.index, delta.text, delta.finish_reason, delta.extra
        )
        self._peer.post(item)
        if not self.sent:
            self.first_s = time.monotonic()
        if delta.finish_reason is not None and self.finish_reason is None:
            self.finish_reason = delta.finish_reason
        self.sent += 1

    def send_unbatched(self, delta: Delta) -> None:
        """Send a large delta in a message of its own, which the reader's limit is for."""
        self._peer.flush()
        self.send(delta)
        self._peer.flush()

    def abort(self) -> None:
        """Cancel whoever sends."""
        self._is_lost = True
        self._task.cancel()

    def __enter__(self) -> "StreamWriter":
        """Begin."""
        task = asyncio.current_task()
        assert task is not None, "an outlet belongs to a task"
        self._task = task
        self._cancellations_before = task.cancelling()
        self._peer.writers.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End; as in `asyncio.timeout`, only a cancellation that is ours becomes an error."""
        self._peer.writers.discard(self)
        if not self._is_lost:
            return
        is_only_ours = self._task.uncancel() <= self._cancellations_before
        if is_only_ours and kind in (asyncio.CancelledError, None):
            raise ReplicaLostError("The stream was lost because its reader is gone.") from error


class _Peer:
    """One ingress replica: its socket, the deltas of this tick, and the requests it waits for."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        address: str,
        on_close: Callable[["_Peer"], None],
    ) -> None:
        self.address = address
        self.writers: set[StreamWriter] = set()
        self._on_close = on_close
        self._items: list[_Item] = []
        self._loop = asyncio.get_running_loop()
        self._socket = context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.SNDHWM, _HIGH_WATER_MESSAGES)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        self._monitor = Reader(self._socket.get_monitor_socket(events), self._note)
        self._socket.connect(address)
        self._giving_up = self._loop.call_later(_CONNECT_TIMEOUT_S, self._abort, "does not answer")

    def post(self, item: _Item) -> None:
        if not self._items:
            self._loop.call_soon(self.flush)
        self._items.append(item)

    def close(self, linger_ms: int = 0) -> None:
        self._on_close(self)
        self._giving_up.cancel()
        # First: ZeroMQ's thread tells of events under a lock that this takes too, and it would wait
        # for ever for a reader that is gone.
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close(linger_ms)

    def flush(self) -> None:
        items, self._items = self._items, []  # first: whatever happens here, the next tick is free
        if self._socket.closed or not items:
            return  # lost since, and whoever posted these has been told; or sent already
        try:
            self._socket.send(_encoder.encode(items), zmq.DONTWAIT)
        except zmq.Again:
            self._abort("has not read for too long")

    def _note(self, frames: list[bytes]) -> None:
        if parse_monitor_message(frames)["event"] == zmq.EVENT_DISCONNECTED:
            self._abort("is gone")
        else:
            self._giving_up.cancel()

    def _abort(self, reason: str) -> None:
        """Give up on this ingress and on its requests; it may come back with new ones."""
        log = logger.warning if self.writers else logger.debug
        log("an ingress replica %s; %d of its requests end", reason, len(self.writers))
        self.close()
        for writer in list(self.writers):
            writer.abort()


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class StreamEnd(Generic[Result]):
    """The result of a streaming call: the final word, and how many deltas came before it."""

    completion: Result
    deltas_sent: int
