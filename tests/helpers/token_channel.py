"""Both ends of the token channel for tests."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import zmq

from api.ports.stream import TextDelta
from deployments.transport.addresses import make_socket_path, remove_socket
from deployments.transport.peers import ChannelSettings
from deployments.transport.stream_reader import StreamReader
from deployments.transport.token_channel import StreamWriter
from deployments.transport.token_messages import StreamDelta

TIMEOUT_S = 5.0
NO_LISTENER = "ipc:///no-such-folder/socket"
"""An address that nothing listens on."""


def from_another_node(address: str) -> str:
    """The address as another node sees it: the socket file is not there."""
    return address.replace("ipc://", "ipc:///no-such-folder")


UNMERGED = ChannelSettings(coalesce_deltas=1_000_000)
"""For tests that compare single deltas: how these fall into batches is chance."""


class Tap:
    """A PULL socket in place of a receiver, to look at whole messages."""

    def __init__(self, path: Path | None = None) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self.path = path or make_socket_path()
        self.path.parent.mkdir(exist_ok=True)
        self.address = f"ipc://{self.path}"
        self._socket.bind(self.address)

    def next_message(self) -> list[tuple[Any, ...]]:
        """The items of the next message, each with its tag first."""
        assert self._socket.poll(int(TIMEOUT_S * 1000)), "no message came"
        return [tuple(item) for item in msgspec.msgpack.decode(self._socket.recv())]

    def has_more(self) -> bool:
        return bool(self._socket.poll(50))

    def close(self) -> None:
        self._context.destroy(linger=0)
        remove_socket(self.path)


async def until(is_true: Callable[[], object]) -> None:
    """Let the event loop run until a condition holds."""
    async with asyncio.timeout(TIMEOUT_S):
        while not is_true():  # noqa: ASYNC110  # the channel has no event for it
            await asyncio.sleep(0.001)


async def count_turns_until(is_true: Callable[[], object]) -> int:
    """How many turns of the event loop pass before a condition holds."""
    turns = 0
    async with asyncio.timeout(TIMEOUT_S):
        while not is_true():
            await asyncio.sleep(0)
            turns += 1
    return turns


async def collect(reader: StreamReader, count: int) -> list[StreamDelta]:
    """All deltas that have not been passed on yet, once `count` have arrived."""
    deltas: list[StreamDelta] = []
    reader.start(deltas.extend)
    async with asyncio.timeout(TIMEOUT_S):
        await reader.wait_for(count)
    return deltas


def send_in_one_tick(writer: StreamWriter, deltas: Sequence[TextDelta]) -> None:
    for delta in deltas:
        writer.send(delta)


async def send_one_per_tick(writer: StreamWriter, texts: Sequence[str]) -> None:
    for text in texts:
        writer.send(TextDelta(0, text))
        await asyncio.sleep(0)


async def send_until_lost(writer: StreamWriter) -> None:
    """Send forever; only losing the reader ends it."""
    with writer:
        while True:
            writer.send(TextDelta(0, "word"))
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def frozen_listener() -> AsyncIterator[str]:
    """Yield the address of another process's PULL socket, which freezes after one message."""
    path = make_socket_path()
    program = (
        "import zmq; s = zmq.Context().socket(zmq.PULL)\n"
        f"s.bind('ipc://{path}'); print('listens', flush=True)\n"
        "s.recv(); print('read', flush=True); s.recv()"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    await process.stdout.readline()

    async def freeze() -> None:
        assert process.stdout
        await process.stdout.readline()
        process.send_signal(signal.SIGSTOP)

    freezing = asyncio.ensure_future(freeze())
    yield f"ipc://{path}"
    await freezing
    process.kill()
    await process.wait()
    remove_socket(path)
