"""Engines without a model, for tests of the service and load tests of the serving path.

`source: "fake:"` selects them. They implement the Protocols of `protocol.py` in full (exact usage,
deltas, cancellation), so what is tested or measured around them holds for the real engines too.
"""

import asyncio
import io
import itertools
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from api.errors import EngineError
from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from api.ports.images import Image, ImageRequest, Images
from api.ports.stream import ImageProgress, TextDelta, Usage
from api.ports.text import Completion, Conversation, Generation, Message, Prompt, Sampling
from deployments.engines.protocol import RequestProgress

_DIMENSIONS = 8
_SIZE_PX = 64
_STEP_S = 0.001


class FakeLlmOptions(BaseModel):
    """Behaviour of the fake LLM."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens_per_s: float = Field(1000.0, gt=0, description="speed of each choice")
    fail_after_tokens: int | None = Field(None, description="fail after this many tokens")
    max_num_seqs: int = Field(100_000, ge=1, description="choices generated at once")
    workers: int = Field(0, ge=0, description="actors that hold the GPUs of the placement group")


class Workers(Protocol):
    """Processes that a model is spread over; see `deployments.models.fake_workers`."""

    @property
    def places(self) -> Sequence[Mapping[str, Any]]:
        """`node` and `gpus` of each worker, as capabilities."""

    def check(self) -> None:
        """Raise if a worker has died."""

    def shut_down(self) -> None:
        """End the workers."""


class FakeLlmEngine:
    """Repeats the words of the prompt: once, or up to `max_tokens` or its default."""

    def __init__(
        self, options: dict[str, Any], start_workers: Callable[[int], Workers] | None = None
    ) -> None:
        """Check the options, and start the workers if there are any.

        Raises:
            pydantic.ValidationError: an option does not exist, or has a wrong value.
        """
        self._options = FakeLlmOptions(**options)
        count = self._options.workers
        self._workers = start_workers(count) if start_workers and count else None
        self._running = 0
        self.aborted = 0
        """Requests that have been cancelled."""

    async def generate(
        self,
        generation: Generation,
        emit: Callable[[TextDelta], None] | None = None,
        adapter: str | None = None,
        progress: RequestProgress | None = None,
    ) -> Completion:
        """Generate all choices at the configured speed: a token is a word, an adapter shouts."""
        progress = progress or RequestProgress()
        sampling = generation.sampling
        words = [_to_words(prompt) for prompt in generation.prompts]
        if adapter:
            words = [[word.upper() for word in prompt] for prompt in words]
        limits = [self._find_limit(prompt, sampling) for prompt in words]
        prompt_tokens = sum(map(len, words))
        progress.usage = Usage(prompt_tokens)
        max_tokens = prompt_tokens + sampling.n * sum(limits)
        await progress.begin(max_tokens, size=len(words) * sampling.n)
        generated = [0]
        self._running += 1
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        self._generate_choice(index, prompt, generation, emit, generated)
                    )
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
            progress.usage = Usage(prompt_tokens, generated[0])
        return Completion(() if emit else tuple(task.result() for task in tasks), progress.usage)

    def _find_limit(self, prompt: list[str], sampling: Sampling) -> int:
        return sampling.max_tokens or sampling.default_max_tokens or len(prompt)

    async def _generate_choice(
        self,
        index: int,
        prompt: list[str],
        generation: Generation,
        emit: Callable[[TextDelta], None] | None,
        generated: list[int],
    ) -> TextDelta:
        sampling = generation.sampling
        words = itertools.islice(itertools.cycle(prompt), self._find_limit(prompt, sampling))
        text = ""
        for tokens, word in enumerate(words):
            await asyncio.sleep(1 / self._options.tokens_per_s)
            if tokens == self._options.fail_after_tokens:
                raise EngineError("The engine failed to answer this request.")
            piece = word if not tokens else f" {word}"
            text += piece
            generated[0] += 1
            if emit:
                emit(TextDelta(index, piece))
        is_limited = sampling.max_tokens or sampling.default_max_tokens
        end = TextDelta(index, text, "length" if is_limited else "stop")
        if emit:
            emit(TextDelta(index, "", end.finish_reason))
        return end

    async def load_adapter(self, name: str, number: int, folder: str) -> str:
        """Return the name: there is nothing to load."""
        return name

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """See `LlmEngine`."""
        places = {"workers": self._workers.places} if self._workers else {}
        return {"reads_pictures": False, **places}

    @property
    def capacity(self) -> int:
        """Choices generated at once."""
        return self._options.max_num_seqs

    @property
    def unfinished_requests(self) -> int:
        """Requests under way."""
        return self._running

    async def check_health(self) -> None:
        """Raise if a worker has died; healthy without any."""
        if self._workers:
            self._workers.check()

    def shut_down(self) -> None:
        """End the workers."""
        if self._workers:
            self._workers.shut_down()


def _to_words(prompt: Prompt) -> list[str]:
    if isinstance(prompt, Conversation):
        return " ".join(_to_text(message) for message in prompt.messages).split() or ["…"]
    if isinstance(prompt, str):
        return prompt.split() or ["…"]
    return [str(token) for token in prompt]


def _to_text(message: Message) -> str:
    parts = message.content if isinstance(message.content, tuple) else (message.content or "",)
    return " ".join(part for part in parts if isinstance(part, str))


class FakeEmbeddingEngine:
    """Turns a text into a vector of checksums; a token is a word."""

    capacity = 1
    capabilities: Mapping[str, Any] = {"dimensions": _DIMENSIONS}

    async def embed(
        self, request: EmbeddingRequest, progress: RequestProgress | None = None
    ) -> Embeddings:
        """Embed all inputs."""
        progress = progress or RequestProgress()
        tokens = sum(len(_to_words(item)) for item in request.inputs)
        await progress.begin(tokens)
        progress.usage = Usage(tokens)
        rows = [self._to_row(repr(item)) for item in request.inputs]
        return Embeddings(b"".join(rows), _DIMENSIONS, progress.usage)

    async def score(self, request: ScoreRequest, progress: RequestProgress | None = None) -> Scores:
        """Score each document by the share of its words that occur in the query."""
        progress = progress or RequestProgress()
        texts = [*request.queries, *request.documents]
        usage = Usage(sum(len(_to_words(text)) for text in texts))
        await progress.begin(usage.prompt_tokens)
        progress.usage = usage
        queries = itertools.cycle(set(_to_words(query)) for query in request.queries)
        documents = [_to_words(document) for document in request.documents]
        pairs = zip(documents, queries, strict=False)
        shares = [sum(word in query for word in words) / len(words) for words, query in pairs]
        return Scores(tuple(shares), usage)

    def _to_row(self, text: str) -> bytes:
        checksums = [zlib.crc32(f"{text}{axis}".encode()) / 2**32 for axis in range(_DIMENSIONS)]
        return struct.pack(f"<{_DIMENSIONS}f", *checksums)

    async def check_health(self) -> None:
        """Always healthy."""

    def shut_down(self) -> None:
        """Nothing to free."""


class FakeDiffusionEngine:
    """Generates images of one colour, which depends on the seed."""

    capacity = 1

    @property
    def capabilities(self) -> dict[str, Any]:
        """The default size; all sizes are accepted."""
        return {"size": f"{_SIZE_PX}x{_SIZE_PX}"}

    async def generate(
        self,
        request: ImageRequest,
        progress: RequestProgress | None = None,
        emit: Callable[[ImageProgress], None] | None = None,
    ) -> Images:
        """Generate all images; a preview is the finished first image."""
        progress = progress or RequestProgress()
        first, steps, taken = request.seed or 0, request.num_inference_steps or 1, 0
        progress.count_steps_left = lambda: request.n * (steps - taken)
        await progress.begin(0, size=request.n)
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
                emit(ImageProgress(step, steps, preview))
        progress.usage = Usage(len(request.prompt.split()), request.n)
        progress.record_steps(request.n, steps, width_px * height_px)
        progress.images = request.n
        return Images(tuple(images), width_px, height_px, progress.usage)

    def check_health(self) -> None:
        """Always healthy."""

    def shut_down(self) -> None:
        """Nothing to free."""


def _to_png(width_px: int, height_px: int, seed: int) -> bytes:
    from PIL import Image as PillowImage

    red, green, blue, _ = zlib.crc32(str(seed).encode()).to_bytes(4, "big")
    file = io.BytesIO()
    PillowImage.new("RGB", (width_px, height_px), (red, green, blue)).save(file, "PNG")
    return file.getvalue()
