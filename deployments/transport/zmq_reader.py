"""ZeroMQ's sockets on the event loop, without a task for each."""

import asyncio
import contextlib
from collections.abc import Callable

import zmq

_MESSAGES_AT_ONCE = 100


class Reader:
    """Gives each message of a ZeroMQ socket to a function, on the event loop."""

    def __init__(self, socket: "zmq.Socket[bytes]", take: Callable[[list[bytes]], None]) -> None:
        """Begin with what is there already."""
        self.socket = socket
        self._take = take
        self._loop = asyncio.get_running_loop()
        # It becomes readable on every change of the socket's state, and stays silent until all
        # that was there has been read (zmq_getsockopt(3), ZMQ_FD).
        self._fd = int(socket.get(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)
        self._loop.call_soon(self._drain)

    def close(self) -> None:
        """Read no more, and close the socket."""
        if not self._loop.is_closed():
            self._loop.remove_reader(self._fd)
        self.socket.close(linger=0)

    def _drain(self) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(_MESSAGES_AT_ONCE):
                if self.socket.closed:
                    return
                self._take(self.socket.recv_multipart(zmq.DONTWAIT))
            self._loop.call_soon(self._drain)  # others' turn, however much there is to read
