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
from types import TracebackType

import msgspec

from api.errors import ReplicaLostError
from api.ports.stream import FinishReason, ImageProgress, TextDelta
from deployments.transport.peers import DEFAULT_SETTINGS, ChannelSettings, Peer, Peers
from deployments.transport.receiving_socket import ReceivingSocket
from deployments.transport.stream_reader import StreamReader
from deployments.transport.token_messages import (
    ImageItem,
    Item,
    LeasedResult,
    ReplyTo,
    TextItem,
    WaitingItem,
)

_STREAM_ID_BYTES = 16

_decoder = msgspec.msgpack.Decoder(list[Item])


class Receiver:
    """The ingress replica's end: one PULL socket, and one reader per open stream."""

    def __init__(self, settings: ChannelSettings = DEFAULT_SETTINGS) -> None:
        """Listen for this node, on the running event loop."""
        self._settings = settings
        self._socket = ReceivingSocket(_decoder, self._dispatch, settings, self._flush)
        self._readers: dict[bytes, StreamReader] = {}
        self._changed: dict[bytes, StreamReader] = {}
        """Streams for which something came in this turn of the event loop."""
        self._address = self._socket.address

    @property
    def dropped(self) -> int:
        """Messages that could not be decoded, and deltas with an unknown stream id."""
        return self._socket.dropped

    def __len__(self) -> int:
        """Number of open streams."""
        return len(self._readers)

    def listen_at(self, host: str) -> None:
        """Listen at a port for other nodes too; streams opened from now on use it."""
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

    def _dispatch(self, items: list[Item]) -> None:
        for item in items:
            reader = self._readers.get(item.stream_id)
            if reader is None:
                self._socket.dropped += 1
                continue
            self._changed[item.stream_id] = reader
            if isinstance(item, LeasedResult):
                reader.end = item
            elif isinstance(item, WaitingItem):
                reader.is_waiting = item.is_waiting
            else:
                reader.put(item.number, item.delta)

    def _flush(self) -> None:
        changed, self._changed = self._changed, {}
        for reader in changed.values():
            reader.flush()


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
        self._peer.post(TextItem(self._stream_id, self.sent, delta))
        self._count()
        if delta.finish_reason is not None and self.finish_reason is None:
            self.finish_reason = delta.finish_reason

    def send_unbatched(self, progress: ImageProgress) -> None:
        """Send in a message of its own: previews are large, and messages have a size limit."""
        self._peer.post_unbatched(ImageItem(self._stream_id, self.sent, progress))
        self._count()

    def send_waiting(self, is_waiting: bool) -> None:
        """Tell whether the request waits for its turn; see `WaitingItem`."""
        self._peer.post(WaitingItem(self._stream_id, is_waiting))

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
