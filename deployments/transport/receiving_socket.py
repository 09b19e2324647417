"""The receiving end of a ZeroMQ channel: one PULL socket; each message is a list of items."""

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec
import zmq

from deployments.transport.addresses import make_socket_path, remove_socket
from deployments.transport.curve import make_curve_server
from deployments.transport.peers import ChannelSettings
from deployments.transport.zmq_reader import ZmqReader

Item = TypeVar("Item")


class ReceivingSocket(Generic[Item]):
    """A PULL socket that decodes what arrives from those who were told one of its addresses."""

    def __init__(
        self,
        decoder: "msgspec.msgpack.Decoder[list[Item]]",
        on_items: Callable[[list[Item]], None],
        settings: ChannelSettings,
        on_turn_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Listen for this node, and read on the running event loop.

        Args:
            decoder: of one message.
            on_items: called with the items of each message.
            settings: limits of the socket.
            on_turn_end: called after the messages of one turn of the event loop.
        """
        self._decoder = decoder
        self._on_items = on_items
        self._context = zmq.Context()
        socket = self._context.socket(zmq.PULL)
        socket.setsockopt(zmq.RCVHWM, settings.high_water_messages)
        socket.setsockopt(zmq.MAXMSGSIZE, settings.max_message_bytes)
        socket.setsockopt(zmq.HANDSHAKE_IVL, settings.handshake_ms)
        self._path = make_socket_path()
        self.address = f"ipc://{self._path}"
        """For senders on this node."""
        socket.bind(self.address)
        self._public_key = make_curve_server(socket)  # for what is bound from now on
        self._reader = ZmqReader(socket, self._on_message, on_turn_end=on_turn_end)
        self.dropped = 0
        """Messages that could not be decoded; the owner adds items that it does not know."""

    def listen_at(self, host: str) -> str:
        """Listen at a free port for other nodes too; returns the address for all nodes.

        Raises:
            zmq.ZMQError: it cannot listen there.
        """
        port = self._reader.socket.bind_to_random_port(f"tcp://{host}")
        return f"{self.address} tcp://{host}:{port}#{self._public_key}"

    def shut_down(self) -> None:
        """Stop reading and close the socket."""
        self._reader.close()
        self._context.destroy(linger=0)
        remove_socket(self._path)

    def _on_message(self, frames: list[bytes]) -> None:
        try:
            items = self._decoder.decode(frames[0])
        except (ValueError, RecursionError):  # also text that is not UTF-8; lists in lists
            self.dropped += 1
            return
        self._on_items(items)
