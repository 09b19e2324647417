"""Engines without a model: for tests of the service, and for load tests of the serving path.

`source: "fake:"` selects them. They keep every promise of the real ones (exact usage, deltas,
cancellation), so what is measured or tested around them holds for those too.
"""

import asyncio
import itertools
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api.errors import EngineError
from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from api.ports.images import Image, ImageRequest, Images
from api.ports.stream import Delta, Extra, ImageProgress, Usage
from api.ports.text import Completion, Conversation, Generation, Message, Prompt, Sampling
from deployments.engines.protocol import RequestProgress

_DIMENSIONS = 8
_SIZE_PX = 64
_STEP_S = 0.001


class FakeLlmOptions(BaseModel):
    """How the fake LLM behaves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens_per_s: float = Field(1000.0, gt=0, description="speed of each choice")
    fail_after_tokens: int | None = Field(None, description="raise once so many are written")
    max_num_seqs: int = Field(100_000, ge=1, description="how many choices it writes at once")


class FakeLlmEngine:
    """Repeats the words of the prompt: once, or as many as `max_tokens` or its default says."""

    def __init__(self, options: dict[str, Any]) -> None:
        """Check the options.

        Raises:
            pydantic.ValidationError: one of them does not exist.
        """
        self._options = FakeLlmOptions(**options)
        self._running = 0
        self.aborted = 0

    async def generate(
        self,
        generation: Generation,
        emit: Callable[[Delta], None] | None = None,
        adapter: str | None = None,
        work: RequestProgress | None = None,
    ) -> Completion:
        """Write all choices at the configured speed; a token is a word, an adapter shouts."""
        work = work or RequestProgress()
        sampling = generation.sampling
        words = [_to_words(prompt) for prompt in generation.prompts]
        if adapter:
            words = [[word.upper() for word in prompt] for prompt in words]
        limits = [self._find_limit(prompt, sampling) for prompt in words]
        prompt_tokens = sum(map(len, words))
        most_tokens = prompt_tokens + sampling.n * sum(limits)
        await work.begin(most_tokens, size=len(words) * sampling.n)
        written = [0]
        self._running += 1
        try:
            async with asyncio.TaskGroup() as group:
                writing = [
                    group.create_task(self._write(index, prompt, generation, emit, written))
                    for index, prompt in enumerate(
                        prompt for prompt in words for _ in range(generation.sampling.n)
                    )
                ]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self._running -= 1
            work.usage = Usage(prompt_tokens, written[0])
        return Completion(() if emit else tuple(task.result() for task in writing), work.usage)

    def _find_limit(self, prompt: list[str], sampling: Sampling) -> int:
        return sampling.max_tokens or sampling.default_max_tokens or len(prompt)

    async def _write(
        self,
        index: int,
        prompt: list[str],
        generation: Generation,
        emit: Callable[[Delta], None] | None,
        written: list[int],
    ) -> Delta:
        sampling = generation.sampling
        words = itertools.islice(itertools.cycle(prompt), self._find_limit(prompt, sampling))
        text = ""
        for tokens, word in enumerate(words):
            await asyncio.sleep(1 / self._options.tokens_per_s)
            if tokens == self._options.fail_after_tokens:
                raise EngineError("The engine failed to answer this request.")
            piece = word if not tokens else f" {word}"
            text += piece
            written[0] += 1
            if emit:
                emit(Delta(index, piece))
        is_cut = sampling.max_tokens or sampling.default_max_tokens
        end = Delta(index, text, "length" if is_cut else "stop")
        if emit:
            emit(Delta(index, "", end.finish_reason))
        return end

    async def load_adapter(self, name: str, number: int, folder: str) -> str:
        """Nothing to load."""
        return name

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What its card tells."""
        return {"reads_pictures": False}

    @property
    def capacity(self) -> int:
        """How many choices it writes at once."""
        return self._options.max_num_seqs

    @property
    def unfinished_requests(self) -> int:
        """Requests under way."""
        return self._running

    async def check_health(self) -> None:
        """It is never ill."""

    def shut_down(self) -> None:
        """Nothing to free."""


def _to_words(prompt: Prompt) -> list[str]:
    if isinstance(prompt, Conversation):
        return " ".join(_to_text(message) for message in prompt.messages).split() or ["…"]
    if isinstance(prompt, str):
        return prompt.split() or ["…"]
    return [str(token) for token in prompt]


def _to_text(message: Message) -> str:
    parts = message.content if isinstance(message.content, tuple) else (message.content or "",)
    return " ".join(part for part in parts if isinstance(part, str))


class FakeEncoderEngine:
    """Turns a text into a vector of its checksum; a token is a word."""

    capacity = 1
    capabilities: Mapping[str, Any] = {"dimensions": _DIMENSIONS}

    async def embed(
        self, request: EmbeddingRequest, work: RequestProgress | None = None
    ) -> Embeddings:
        """Embed all inputs."""
        work = work or RequestProgress()
        tokens = sum(len(_to_words(item)) for item in request.inputs)
        await work.begin(tokens)
        work.usage = Usage(tokens)
        rows = [self._to_row(repr(item)) for item in request.inputs]
        return Embeddings(b"".join(rows), _DIMENSIONS, work.usage)

    async def score(self, request: ScoreRequest, work: RequestProgress | None = None) -> Scores:
        """Score a document by the share of its words that are the query's."""
        work = work or RequestProgress()
        texts = [*request.queries, *request.documents]
        usage = Usage(sum(len(_to_words(text)) for text in texts))
        await work.begin(usage.prompt_tokens)
        work.usage = usage
        queries = itertools.cycle(set(_to_words(query)) for query in request.queries)
        documents = [_to_words(document) for document in request.documents]
        pairs = zip(documents, queries, strict=False)
        shares = [sum(word in query for word in words) / len(words) for words, query in pairs]
        return Scores(tuple(shares), usage)

    def _to_row(self, text: str) -> bytes:
        checksums = [zlib.crc32(f"{text}{axis}".encode()) / 2**32 for axis in range(_DIMENSIONS)]
        return struct.pack(f"<{_DIMENSIONS}f", *checksums)

    async def check_health(self) -> None:
        """It is never ill."""

    def shut_down(self) -> None:
        """Nothing to free."""


class FakeDiffusionEngine:
    """Draws one flat colour, taken from the seed."""

    capacity = 1

    @property
    def capabilities(self) -> dict[str, Any]:
        """It takes every size."""
        return {"size": f"{_SIZE_PX}x{_SIZE_PX}"}

    async def generate(
        self,
        request: ImageRequest,
        work: RequestProgress | None = None,
        emit: Callable[[Delta], None] | None = None,
    ) -> Images:
        """Draw all images; what it emits on the way is the finished picture."""
        work = work or RequestProgress()
        first, steps, taken = request.seed or 0, request.num_inference_steps or 1, 0
        work.count_steps_left = lambda: request.n * (steps - taken)
        await work.begin(0, size=request.n)
        width_px, height_px = request.width_px or _SIZE_PX, request.height_px or _SIZE_PX
        images = [
            Image(_to_png(width_px, height_px, seed), seed)
            for seed in range(first, first + request.n)
        ]
        for step in range(1, steps + 1):
            await asyncio.sleep(_STEP_S)
            taken = step
            if emit is not None:
                preview = images[0].data if step <= request.previews else b""
                emit(Delta(0, "", extra=Extra(sketch=ImageProgress(step, steps, preview))))
        work.usage = Usage(len(request.prompt.split()), request.n)
        work.record_steps(request.n, steps, width_px * height_px)
        work.images = request.n
        return Images(tuple(images), width_px, height_px, work.usage)

    def check_health(self) -> None:
        """It is never ill."""

    def shut_down(self) -> None:
        """Nothing to free."""


def _to_png(width_px: int, height_px: int, seed: int) -> bytes:
    """An 8-bit RGB image of one colour. Source: PNG specification, third edition, §11."""
    colour = zlib.crc32(str(seed).encode()).to_bytes(4, "big")[:3]
    rows = (b"\0" + colour * width_px) * height_px
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
