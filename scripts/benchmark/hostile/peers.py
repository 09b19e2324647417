"""Peers without a key, at every port of the service that they might reach."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import grpc
import msgspec
import psutil
import zmq

from scripts.benchmark.stacks.process_cost import classify, read_title, tree

_HOLD_S = 15.0
_HALF_HEADERS = 4200
_HALF_FRAMES = 500
_FRAME_BYTES = 40_000_000
_MESSAGE_BYTES = 12_000_000
_GRPC_BYTES = 700_000_000
_GRPC_METHOD = "/ray.serve.ASGIService/HandleRequest"
_UNKNOWN_KEYS = 2000
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """A running service."""

    port: int
    pid: int

    def ports(self, group: str) -> list[int]:
        """Return the TCP ports at which the processes of a group listen."""
        found = []
        for pid in tree(self.pid):
            with contextlib.suppress(OSError, psutil.Error):
                if classify(read_title(pid)) == group:
                    connections = psutil.Process(pid).net_connections("tcp")
                    found += [each.laddr.port for each in connections if each.status == "LISTEN"]
        return sorted(set(found))


def to_peers(target: Target) -> dict[str, Callable[[], str]]:
    """Name the attacks; each returns what became of it."""
    return {
        f"{_HALF_HEADERS:,} half headers": partial(_hold_half_headers, target),
        f"{_UNKNOWN_KEYS:,} unknown keys": partial(_try_keys, target),
        "a frame of 40 MB for the ledger": partial(_send_frame, target),
        f"{_HALF_FRAMES} half frames for the ledger": partial(_hold_half_frames, target),
        "six messages of 12 MB for the ingress's channel": partial(_send_messages, target),
        "a gRPC message of 700 MB for the ingress": partial(_call_grpc, target),
    }


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)


def _hold_half_headers(target: Target) -> str:
    return _hold([target.port], _HALF_HEADERS, b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n")


def _hold_half_frames(target: Target) -> str:
    return _hold(target.ports("ledger"), _HALF_FRAMES, (1 << 25).to_bytes(4, "big") + b"\xdd")


def _hold(ports: list[int], count: int, half: bytes) -> str:
    """Hold connections that have sent half of something, and count those that are left."""
    with contextlib.ExitStack() as stack:
        held = []
        for number in range(count):
            with contextlib.suppress(OSError):
                held.append(stack.enter_context(_connect(ports[number % len(ports)])))
                held[-1].sendall(half)
        time.sleep(_HOLD_S)
        return f"{sum(map(_is_open, held)):,} open after {_HOLD_S:g} s"


def _is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _try_keys(target: Target) -> str:
    """Send requests with keys that nobody has, on four connections at once."""
    answers: list[bytes] = []
    threads = [threading.Thread(target=_try_some, args=(target, answers)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kinds = {status.decode(): answers.count(status) for status in sorted(set(answers))}
    return ", ".join(f"{count:,} × {status}" for status, count in kinds.items())


def _try_some(target: Target, answers: list[bytes]) -> None:
    for number in range(_UNKNOWN_KEYS // 4):
        with contextlib.suppress(OSError), _connect(target.port) as connection:
            request = (
                f"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk-{number}\r\n"
                "Connection: close\r\n\r\n"
            )
            connection.sendall(request.encode())
            answers.append(connection.recv(4096)[9:12])


def _send_frame(target: Target) -> str:
    """Send the ledger an event whose fields are empty arrays."""
    event = msgspec.msgpack.encode([{"type": "Audit", "event": "", "fields": {"a": []}}])
    arrays = b"\xdd" + _FRAME_BYTES.to_bytes(4, "big") + b"\x90" * _FRAME_BYTES
    payload = event.removesuffix(b"\x90") + arrays
    frame = len(payload).to_bytes(4, "big") + payload
    return _join(_send_until_closed(port, frame) for port in target.ports("ledger"))


def _send_until_closed(port: int, data: bytes) -> str:
    try:
        with _connect(port) as connection:
            connection.sendall(data)
            while connection.recv(4096):
                pass
        return "read, closed"
    except TimeoutError:
        return "read, held"
    except OSError:
        return "closed"


def _send_messages(target: Target) -> str:
    """Send the token channel items of streams that there are not."""
    item = [3, b"", True]  # deployments.transport.token_messages.WaitingItem
    count = _MESSAGE_BYTES // len(msgspec.msgpack.encode(item))
    message = msgspec.msgpack.encode([item] * count)
    return _join(_push(port, message) for port in target.ports("ingress")) or "no port"


def _push(port: int, message: bytes) -> str:
    with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
        sender.set(zmq.IMMEDIATE, 1)  # only a finished handshake counts as connected
        sender.set(zmq.LINGER, 5000)
        sender.set(zmq.SNDTIMEO, 2000)
        sender.connect(f"tcp://127.0.0.1:{port}")
        try:
            for _ in range(6):
                sender.send(message)
        except zmq.Again:
            return "refused"
    return "taken"


def _call_grpc(target: Target) -> str:
    """Call the ingress replica over gRPC without Ray's token, with a large message."""
    message = bytes(_GRPC_BYTES)
    return _join(_call(port, message) for port in target.ports("ingress"))


def _call(port: int, message: bytes) -> str:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=2)
            channel.unary_unary(_GRPC_METHOD)(message, timeout=_TIMEOUT_S)
        except grpc.FutureTimeoutError:
            return "no gRPC"
        except grpc.RpcError as error:
            return str(error.code().name)  # type: ignore[attr-defined]  # not in its stubs
    return "taken"


def _join(results: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(results))
