"""Keeps the event loop free of long texts: they are cut into tokens in a thread of its own."""

from api.ports.embeddings import EmbeddingRequest, ScoreRequest
from deployments.engines.cancellable_thread import Worker
from deployments.engines.embedding.inputs import InputReader, Tokens

_MAX_CHARS_ON_LOOP = 2000
"""Takes some 0.2 ms; the way to a thread and back takes as long, and more beside a busy one."""


class ThreadedReader:
    """An `InputReader` for the event loop; each method raises what the reader's raises."""

    def __init__(self, reader: InputReader) -> None:
        """Read by `reader`."""
        self._reader = reader
        self._worker = Worker("tokenizer")

    async def read(self, request: EmbeddingRequest) -> list[Tokens]:
        """The inputs of a request."""
        # One text: several are shared out among threads that may all be busy with longer ones.
        if len(request.inputs) == 1 and len(request.inputs[0]) <= _MAX_CHARS_ON_LOOP:
            return self._reader.read(request)
        return await self._worker.run(lambda stop: self._reader.read(request, stop.check))

    async def read_sides(self, request: ScoreRequest) -> list[Tokens]:
        """Queries, then documents, each by itself."""
        return await self._worker.run(lambda stop: self._reader.read_sides(request, stop.check))

    def shut_down(self) -> None:
        """Take no more work."""
        self._worker.shut_down()
