"""The token channel: streams deltas from engine replicas to ingress replicas over ZeroMQ.

Each ingress replica binds one PULL socket. Each engine replica keeps one PUSH socket per ingress
replica, and sends it one message per event-loop tick with the deltas of all its requests. The cost
per engine step is thus constant, while a Serve stream costs several hundred microseconds per item.

The request itself comes by a lease, a Serve call that serves one request after the other. Its
result is the stream's last item, or that of the call, and says how many deltas were sent. Each
delta carries the stream's id, 128 random bits, and a number that counts from 0. Deltas with an
unknown id are dropped and counted; a gap in the numbers breaks the stream. The connection to an
ingress replica that is dead, frozen or too slow is closed, and its requests are cancelled.
"""

import asyncio
import secrets
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar

import msgspec

from api.errors import ReplicaLostError
from api.ports.stream import Extra, FinishReason, ImageProgress, TextDelta
from deployments.transport.peers import DEFAULT_SETTINGS, LOOPBACK, ChannelSettings, Peer, Peers
from deployments.transport.receiving_socket import ReceivingSocket

_STREAM_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where the deltas of one request go."""

    address: str
    stream_id: bytes


class _TextItem(msgspec.Struct, array_like=True, gc=False, tag=0):
    """One text delta on the wire; `number` counts the deltas of one stream from 0."""

    stream_id: bytes
    number: int
    index: int
    text: str
    finish_reason: FinishReason | None
    extra: Extra | None = None


class _ImageItem(msgspec.Struct, array_like=True, gc=False, tag=1):
    """The progress of one image on the wire; `number` as in `_TextItem`."""

    stream_id: bytes
    number: int
    progress: ImageProgress


class LeasedResult(msgspec.Struct, array_like=True, gc=False, tag=2):
    """The result of a request of a lease, as on the wire: it comes after the request's deltas."""

    stream_id: bytes
    deltas_sent: int
    result: bytes
    """As MessagePack."""
    inbox: str
    """Address for the lease's next request."""


_Item = _TextItem | _ImageItem | LeasedResult

StreamDelta = TextDelta | ImageProgress
"""What streams: language models send the first, image models the second."""


_decoder = msgspec.msgpack.Decoder(list[_Item])


class StreamReader:
    """The deltas of one request that have arrived and are not drained yet."""

    def __init__(
        self, reply_to: ReplyTo, coalesce_deltas: int = DEFAULT_SETTINGS.coalesce_deltas
    ) -> None:
        """Start empty; see `ChannelSettings.coalesce_deltas`."""
        self.reply_to = reply_to
        self.received = 0
        self.has_gap = False
        self._coalesce_deltas = coalesce_deltas
        self._deltas: list[StreamDelta] = []
        self._waiter: asyncio.Future[None] | None = None
        self.end: LeasedResult | None = None
        """The result, once it has arrived over the channel."""

    def put(self, number: int, delta: StreamDelta) -> None:
        """Add a delta; a number out of order means that deltas were lost."""
        if number == self.received:
            self.received += 1
            self._deltas.append(delta)
        else:
            self.has_gap = True
        self.notify()

    def drain(self) -> list[StreamDelta]:
        """Remove and return all deltas; merged by choice if the reader has fallen far behind."""
        deltas, self._deltas = self._deltas, []
        return deltas if len(deltas) < self._coalesce_deltas else _merge(deltas)

    def notify(self) -> None:
        """End the current `wait`, even without a delta."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until there are deltas to drain, or for `notify`. Only one task may wait."""
        if self._deltas or self.end is not None:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


def _merge(deltas: list[StreamDelta]) -> list[StreamDelta]:
    """Join texts of one choice; progress of images and deltas with extras stay as they are."""
    texts: dict[int, list[str]] = {}
    reasons: dict[int, FinishReason | None] = {}
    for delta in deltas:
        if not isinstance(delta, TextDelta) or delta.extra is not None:
            return deltas
        texts.setdefault(delta.index, []).append(delta.text)
        reasons[delta.index] = delta.finish_reason
    return [TextDelta(index, "".join(parts), reasons[index]) for index, parts in texts.items()]


class Receiver:
    """The ingress replica's end: one PULL socket, and one reader per open stream."""

    def __init__(self, host: str = LOOPBACK, settings: ChannelSettings = DEFAULT_SETTINGS) -> None:
        """Listen at a free port of `host`, on the running event loop."""
        self._settings = settings
        self._socket = ReceivingSocket(_decoder, self._dispatch, settings)
        self._readers: dict[bytes, StreamReader] = {}
        self.listen_at(host)

    @property
    def dropped(self) -> int:
        """Messages that could not be decoded, and deltas with an unknown stream id."""
        return self._socket.dropped

    def __len__(self) -> int:
        """Number of open streams."""
        return len(self._readers)

    def listen_at(self, host: str) -> None:
        """Listen at another address too; streams opened from now on use it."""
        self._address = self._socket.listen_at(host)

    def open(self) -> StreamReader:
        """Open a reader for a new request."""
        reply_to = ReplyTo(self._address, secrets.token_bytes(_STREAM_ID_BYTES))
        reader = StreamReader(reply_to, self._settings.coalesce_deltas)
        self._readers[reply_to.stream_id] = reader
        return reader

    def close(self, reader: StreamReader) -> None:
        """Close a reader; deltas that still arrive for it are dropped. Safe to repeat."""
        self._readers.pop(reader.reply_to.stream_id, None)

    def shut_down(self) -> None:
        """Stop reading and close the socket."""
        self._socket.shut_down()

    def _dispatch(self, items: list[_Item]) -> None:
        for item in items:
            reader = self._readers.get(item.stream_id)
            if reader is None:
                self._socket.dropped += 1
                continue
            delta: StreamDelta
            if isinstance(item, _TextItem):  # not in a function: this runs for every token
                delta = TextDelta(item.index, item.text, item.finish_reason, item.extra)
            elif isinstance(item, LeasedResult):
                reader.end = item
                reader.notify()
                continue
            else:
                delta = item.progress
            reader.put(item.number, delta)


class Sender:
    """The engine replica's end: one PUSH socket per ingress replica."""

    def __init__(self, settings: ChannelSettings = DEFAULT_SETTINGS) -> None:
        """Start without sockets: each is opened with the first stream to its ingress replica."""
        self._peers = Peers("an ingress replica", settings)

    @property
    def peers(self) -> int:
        """Number of connected ingress replicas."""
        return len(self._peers)

    @property
    def writers(self) -> int:
        """Number of open streams."""
        return self._peers.users

    def open(self, reply_to: ReplyTo) -> "StreamWriter":
        """Open a writer for the deltas of one request."""
        return StreamWriter(self._peers.get(reply_to.address), reply_to.stream_id)

    def shut_down(self) -> None:
        """Close all sockets; blocks up to `linger_ms` while pending messages are sent."""
        self._peers.shut_down()


class StreamWriter:
    """Sends one request's deltas, within the `with` block that produces them.

    When the ingress replica is lost, the block's task is cancelled, and the block raises
    ReplicaLostError. The block may be entered again.
    """

    def __init__(self, peer: Peer, stream_id: bytes) -> None:
        """Send to `peer` under `stream_id`."""
        self._peer = peer
        self._stream_id = stream_id
        self._is_lost = False
        self.sent = 0
        self.first_s: float | None = None
        """Monotonic time of the first delta."""
        self.finish_reason: FinishReason | None = None
        """Of the choice that finished first."""

    def send(self, delta: TextDelta) -> None:
        """Queue a delta; all deltas of this tick go out in one message. Never blocks."""
        item = _TextItem(
            self._stream_id, self.sent, delta.index, delta.text, delta.finish_reason, delta.extra
        )
        self._peer.post(item)
        self._count()
        if delta.finish_reason is not None and self.finish_reason is None:
            self.finish_reason = delta.finish_reason

    def send_unbatched(self, progress: ImageProgress) -> None:
        """Send in a message of its own: previews are large, and messages have a size limit."""
        self._peer.post_unbatched(_ImageItem(self._stream_id, self.sent, progress))
        self._count()

    def send_end(self, result: bytes, inbox: str) -> None:
        """Send the request's result after its deltas; see `LeasedResult`."""
        item = LeasedResult(self._stream_id, self.sent, result, inbox)
        self._peer.post_by_size(item, len(result))

    def _count(self) -> None:
        if not self.sent:
            self.first_s = time.monotonic()
        self.sent += 1

    def abort(self) -> None:
        """Cancel the block's task: the ingress replica is lost."""
        self._is_lost = True
        self._task.cancel()

    def __enter__(self) -> "StreamWriter":
        """Bind the writer to the current task.

        Raises:
            ReplicaLostError: the ingress replica is lost already.
        """
        if self._peer.is_closed:
            raise ReplicaLostError("The stream was lost because its reader is gone.")
        task = asyncio.current_task()
        assert task is not None, "a stream is written by a task"
        self._task = task
        self._cancellations_before = task.cancelling()
        self._peer.users.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Turn the cancellation by `abort` into ReplicaLostError, as `asyncio.timeout` does."""
        self._peer.users.discard(self)
        if not self._is_lost:
            return
        is_only_ours = self._task.uncancel() <= self._cancellations_before
        if is_only_ours and kind in (asyncio.CancelledError, None):
            raise ReplicaLostError("The stream was lost because its reader is gone.") from error


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class StreamEnd(Generic[Result]):
    """The result of a streaming call."""

    completion: Result
    deltas_sent: int
