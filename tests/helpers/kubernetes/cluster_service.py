"""A Service of Kubernetes: one port, and each new connection goes to a pod that is ready."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from tests.helpers.kubernetes.operator import PROBE_PERIOD_S, SERVE_PORT, RayCluster, is_ready
from tests.helpers.kubernetes.pods import Pod

_CHUNK_BYTES = 65_536


class ClusterService:
    """Forwards connections. Pods leave at once when they are told to end, as in Kubernetes."""

    def __init__(self, cluster: RayCluster) -> None:
        """Forward to the workers of one cluster."""
        self.cluster = cluster
        self.leaving: set[Pod] = set()
        """Pods that have been told to end."""
        self.port = 0
        self._ready: dict[Pod, int] = {}
        """Pods that were ready when they were probed → which start of their container that was."""

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ready(self) -> list[Pod]:
        """The pods that new connections go to."""
        workers = [each for each in self.cluster.workers if each not in self.leaving]
        ready = [each for each in workers if self._ready.get(each) == each.starts]
        return [each for each in ready if each.is_running]

    def switch(self, cluster: RayCluster) -> None:
        """Forward new connections to another cluster, whose workers are all ready."""
        self._ready.update({each: each.starts for each in cluster.workers})
        self.cluster = cluster

    async def run(self) -> None:
        """Forward, and probe the pods, until cancelled."""
        server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            while True:
                began_s = time.monotonic()
                await asyncio.gather(*map(self._probe, self.cluster.workers))
                await asyncio.sleep(max(0, began_s + PROBE_PERIOD_S - time.monotonic()))

    async def _probe(self, pod: Pod) -> None:
        start = pod.starts
        self._ready[pod] = start if await asyncio.to_thread(is_ready, pod) else 0

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            to_pod = await self._connect()
            try:
                await _relay((reader, writer), to_pod)
            finally:
                to_pod[1].transport.abort()
        writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a pod, or to another one: a client that is refused tries again."""
        pods = random.sample(self.ready, len(self.ready))
        for pod in pods:
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(pod.address, SERVE_PORT)
        raise ConnectionRefusedError


async def _relay(
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    pod: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    """Copy both ways. The connection ends when either side has closed it."""
    copies = {
        asyncio.create_task(_copy(client[0], pod[1])),
        asyncio.create_task(_copy(pod[0], client[1])),
    }
    _, open_copies = await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    for copy in open_copies:
        copy.cancel()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()


@contextlib.contextmanager
def in_background(coroutine: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
    """Run a coroutine in an event loop of its own during the block, and cancel it afterwards."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()

    async def run() -> None:
        task = asyncio.create_task(coroutine())
        started.set_result((asyncio.get_running_loop(), task))
        with contextlib.suppress(asyncio.CancelledError):
            await task

    with ThreadPoolExecutor(1) as thread:
        ended = thread.submit(asyncio.run, run())
        loop, task = started.result()
        try:
            yield
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended with the coroutine
                loop.call_soon_threadsafe(task.cancel)
            ended.result()
