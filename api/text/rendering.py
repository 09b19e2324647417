"""Renders the streams of OpenAI's text endpoints: chunks, usage and `[DONE]`.

Chat and completions differ in their chunks only.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from api.errors import ApiError
from api.http.sse import Event
from api.ports.stream import TextDelta, Usage
from api.ports.text import Completion
from api.registry import TextOptions, UsagePlacement
from api.schema.common import TextRequest
from api.text.last_chunk_usage import LastChunkBuffer

_DONE: Event = (None, b"[DONE]")
"""Ends a complete stream."""


@dataclass(frozen=True, slots=True)
class ResponseMeta:
    """The members that all objects of one response share."""

    id: str
    model: str
    created_s: int
    fingerprint: str

    @classmethod
    def new(cls, prefix: str, request_id: str, model: str, options: TextOptions) -> "ResponseMeta":
        """Describe a response created now."""
        return cls(f"{prefix}-{request_id}", model, int(time.time()), options.fingerprint)


class ChunkRenderer(Protocol):
    """Renders answers in the format of one endpoint."""

    def render(self, completion: Completion) -> dict[str, Any]:
        """Render the body of a whole answer."""

    def render_chunks(self, delta: TextDelta) -> list[bytes]:
        """Render the chunks of one delta, as JSON in ASCII."""

    def render_usage_chunk(self, usage: Usage) -> bytes:
        """Render the chunk with the usage, which follows all choices."""

    def render_last_chunks(self, delta: TextDelta, usage: Usage) -> list[bytes]:
        """Render the chunks of the last delta, the last of them with the usage."""


class ChunkStreamRenderer:
    """A `StreamRenderer` for the chunks of one endpoint."""

    def __init__(self, chunks: ChunkRenderer, usage_placement: UsagePlacement | None) -> None:
        """Render with `chunks`; without a placement the stream has no usage."""
        self._chunks = chunks
        self._usage_placement = usage_placement
        self._buffer = LastChunkBuffer() if usage_placement == "last_chunk" else None

    def render_deltas(self, deltas: Sequence[TextDelta]) -> list[Event]:
        """Render the chunks of some deltas."""
        ready = self._buffer.push(deltas) if self._buffer else deltas
        render_chunks = self._chunks.render_chunks
        return [(None, chunk) for delta in ready for chunk in render_chunks(delta)]

    def render_end(self, completion: Completion) -> list[Event]:
        """Render the usage, if requested, and `[DONE]`."""
        chunks: list[bytes] = []
        if self._buffer and self._buffer.delta:
            chunks = self._chunks.render_last_chunks(self._buffer.delta, completion.usage)
        elif self._usage_placement:
            chunks = [self._chunks.render_usage_chunk(completion.usage)]
        return [*((None, chunk) for chunk in chunks), _DONE]

    def render_error(self, error: ApiError) -> list[Event]:
        """Render an error without `[DONE]`; OpenAI's SDK raises it as `APIError`."""
        return [(None, json.dumps(error.body()).encode())]


def find_usage_placement(request: TextRequest, options: TextOptions) -> UsagePlacement | None:
    """Return where a stream's usage goes; None if the client does not want it."""
    stream_options = request.stream_options
    if stream_options is None:
        return None
    placement = stream_options.usage_placement or options.usage_placement
    # Services with the usage on the last chunk have no `include_usage`.
    return placement if stream_options.include_usage or placement == "last_chunk" else None
