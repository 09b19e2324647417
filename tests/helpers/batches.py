"""Reads a `ModelStream` batch by batch."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Generic, TypeVar

from api.ports.stream import ModelStream

Delta = TypeVar("Delta")
Result = TypeVar("Result")


class Batches(Generic[Delta, Result]):
    """The batches of deltas of a stream, in order; `result` after the last."""

    def __init__(self, stream: ModelStream[Delta, Result]) -> None:
        """Read `stream` in a task, from the first iteration on."""
        self._stream = stream
        self._queue: asyncio.Queue[Sequence[Delta]] = asyncio.Queue()
        self.result: Result | None = None

    async def __aiter__(self) -> AsyncIterator[Sequence[Delta]]:
        """Yield the batches as they were passed on; raises what the stream raises."""
        forwarding = asyncio.ensure_future(self._stream.forward(self._queue.put_nowait))
        try:
            while not forwarding.done() or not self._queue.empty():
                getting = asyncio.ensure_future(self._queue.get())
                await asyncio.wait({getting, forwarding}, return_when=asyncio.FIRST_COMPLETED)
                if getting.done():
                    yield getting.result()
                getting.cancel()
            self.result = forwarding.result()
        finally:
            forwarding.cancel()
