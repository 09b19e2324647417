"""Reads ZeroMQ sockets on the event loop, without a task per socket."""

import asyncio
import contextlib
from collections.abc import Callable

import zmq

_MESSAGES_PER_TURN = 100


class ZmqReader:
    """Passes each message of a ZeroMQ socket to a function, on the event loop."""

    def __init__(
        self,
        socket: "zmq.Socket[bytes]",
        on_message: Callable[[list[bytes]], None],
        messages_per_turn: int = _MESSAGES_PER_TURN,
        on_turn_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Start reading, beginning with messages that have arrived already.

        Args:
            socket: owned by the reader from now on.
            on_message: called with the frames of each message.
            messages_per_turn: after so many messages other callbacks of the loop run.
            on_turn_end: called after the messages of a turn.
        """
        self.socket = socket
        self._on_message = on_message
        self._messages_per_turn = messages_per_turn
        self._on_turn_end = on_turn_end
        self._loop = asyncio.get_running_loop()
        # Becomes readable when the socket's state changes, and then not again until all messages
        # have been read (zmq_getsockopt(3), ZMQ_FD).
        self._fd = int(socket.get(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)
        self._loop.call_soon(self._drain)

    def close(self) -> None:
        """Stop reading and close the socket."""
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        self.socket.close(linger=0)

    def _drain(self) -> None:
        try:
            self._read_turn()
        finally:
            self._on_turn_end()

    def _read_turn(self) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(self._messages_per_turn):
                if self.socket.closed:
                    return
                self._on_message(self.socket.recv_multipart(zmq.DONTWAIT))
            self._loop.call_soon(self._drain)  # let other callbacks run before the rest
