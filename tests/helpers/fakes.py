"""Fakes of the Protocols in `api.ports`, which record their calls, and the application over them.

With `held=True` a backend waits before every step until the test calls `gate.release`.
"""

import asyncio
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette

from api.access.key_format import digest
from api.access.key_ring import KeyDigest, KeyRing, Keys
from api.admin.key_schema import apply_changes
from api.app import create_app
from api.endpoint import RequestMeta
from api.errors import InvalidRequestError, KeyNotFoundError
from api.ports.administration import NewSecret, UsageQuery, UsageRow
from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from api.ports.images import Image, ImageFormat, ImageRequest, Images
from api.ports.stream import Consume, ImageProgress, TextDelta, Usage
from api.ports.tenancy import Key, RequestContext
from api.ports.text import Completion, Generation
from api.registry import ModelEntry, Models, Registry, TextOptions
from api.services import Services

META = RequestMeta("req_1", RequestContext(), lambda: "http://test", may_log_prompts=False)
LLM, ENCODER, PAINTER = "llm", "org/encoder", "painter"
"""Ids of the three models that `build_app` serves."""

HELLO = ((TextDelta(0, "Hel"),), (TextDelta(0, "lo"),), (TextDelta(0, "", "stop"),))
"""Three batches of deltas of one choice."""

LLM_USAGE = Usage(prompt_tokens=5, completion_tokens=2)
ENCODER_USAGE = Usage(prompt_tokens=7)
PAINTER_USAGE = Usage(prompt_tokens=6, completion_tokens=1)

DEPLOYED_AT_S = 1_700_000_000


class Gate:
    """Lets steps pass: all of them, or if held only those that are released."""

    def __init__(self, held: bool) -> None:
        """Start open or closed."""
        self._permits = asyncio.Semaphore(0) if held else None
        self.waiting = asyncio.Event()
        """Set once a step waits at the closed gate."""

    def release(self, steps: int = 1) -> None:
        """Let a number of steps pass."""
        assert self._permits is not None, "only a held gate can be released"
        for _ in range(steps):
            self._permits.release()

    async def passing(self) -> None:
        """Wait until this step may pass."""
        if self._permits is not None:
            self.waiting.set()
            await self._permits.acquire()


class FakeTextStream:
    """A `TextStream` that passes on given batches, then ends or fails."""

    def __init__(self, llm: "FakeLlm") -> None:
        """Stream the batches of `llm`."""
        self._llm = llm
        self.is_closed = False

    async def forward(self, consume: Consume[TextDelta]) -> Completion:
        """Pass on the batches."""
        for batch in self._llm.batches:
            await self._llm.gate.passing()
            await _hand(consume, batch)
        await self._llm.gate.passing()
        if self._llm.error is not None:
            raise self._llm.error
        return Completion((), self._llm.usage)

    async def aclose(self) -> None:
        """Take some time, so that a test detects a caller that does not wait."""
        for _ in range(5):
            await asyncio.sleep(0)
        self.is_closed = True


async def _hand(consume: Consume[Any], batch: Sequence[Any]) -> None:
    if (rest := consume(batch)) is not None:
        await rest


class FakeLlm:
    """An `LlmBackend` that returns the same deltas for every request."""

    def __init__(
        self,
        batches: Sequence[tuple[TextDelta, ...]] = HELLO,
        *,
        usage: Usage = LLM_USAGE,
        error: Exception | None = None,
        held: bool = False,
    ) -> None:
        """Return `batches`, then raise `error` if there is one."""
        self.batches = batches
        self.usage = usage
        self.error = error
        self.gate = Gate(held)
        self.generations: list[Generation] = []
        self.streams: list[FakeTextStream] = []
        self.cancelled = 0

    async def complete(self, generation: Generation) -> Completion:
        """Return the joined deltas of the stream."""
        self.generations.append(generation)
        try:
            await self.gate.passing()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return Completion(join(self.batches), self.usage)

    def stream(self, generation: Generation) -> FakeTextStream:
        """Begin a stream."""
        self.generations.append(generation)
        self.streams.append(FakeTextStream(self))
        return self.streams[-1]


def join(batches: Iterable[tuple[TextDelta, ...]]) -> tuple[TextDelta, ...]:
    """Join the deltas of a stream to whole choices."""
    deltas = [delta for batch in batches for delta in batch]
    return tuple(
        TextDelta(
            index,
            "".join(delta.text for delta in deltas if delta.index == index),
            next(delta.finish_reason for delta in reversed(deltas) if delta.index == index),
            next((delta.extra for delta in deltas if delta.index == index and delta.extra), None),
        )
        for index in sorted({delta.index for delta in deltas})
    )


class FakeEncoder:
    """An `EmbeddingBackend` that returns given vectors in turn."""

    def __init__(
        self,
        rows: Sequence[Sequence[float]] = ((0.1, -2.5), (3.0, 1e-30)),
        *,
        usage: Usage = ENCODER_USAGE,
        error: Exception | None = None,
        held: bool = False,
    ) -> None:
        """Return `rows`, or raise `error`."""
        self.rows = rows
        self.usage = usage
        self.error = error
        self.gate = Gate(held)
        self.requests: list[EmbeddingRequest] = []
        self.scored: list[ScoreRequest] = []
        self.cancelled = 0

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Return one row per input."""
        self.requests.append(request)
        try:
            await self.gate.passing()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        rows = [self.rows[index % len(self.rows)] for index in range(len(request.inputs))]
        dimensions = len(self.rows[0])
        vectors = b"".join(struct.pack(f"<{dimensions}f", *row) for row in rows)  # (N, D) float32
        return Embeddings(vectors, dimensions, self.usage)

    async def score(self, request: ScoreRequest) -> Scores:
        """Return the first numbers of the rows in turn as scores."""
        self.scored.append(request)
        await self.gate.passing()
        if self.error is not None:
            raise self.error
        numbers = range(len(request.documents))
        return Scores(tuple(self.rows[each % len(self.rows)][0] for each in numbers), self.usage)


class FakeImageStream:
    """An `ImageStream` of three steps; the first steps have the requested previews."""

    def __init__(self, painter: "FakePainter", request: ImageRequest) -> None:
        """Stream the image that `painter` generates."""
        self._painter = painter
        self._request = request
        self.is_closed = False

    async def forward(self, consume: Consume[ImageProgress]) -> Images:
        """Pass on the progress of each step."""
        for step in range(1, 4):
            await self._painter.gate.passing()
            preview = f"preview {step}".encode() if step <= self._request.previews else b""
            await _hand(consume, (ImageProgress(step, 3, preview),))
        if self._painter.error is not None:
            raise self._painter.error
        return self._painter.draw(self._request)

    async def aclose(self) -> None:
        """Take some time, so that a test detects a caller that does not wait."""
        for _ in range(5):
            await asyncio.sleep(0)
        self.is_closed = True


class FakePainter:
    """An `ImageBackend` whose images are short texts instead of PNGs."""

    def __init__(
        self,
        *,
        usage: Usage = PAINTER_USAGE,
        error: Exception | None = None,
        held: bool = False,
    ) -> None:
        """Generate images, or raise `error`."""
        self.usage = usage
        self.error = error
        self.gate = Gate(held)
        self.requests: list[ImageRequest] = []
        self.streams: list[FakeImageStream] = []
        self.cancelled = 0

    async def generate(self, request: ImageRequest) -> Images:
        """Return `n` numbered images."""
        self.requests.append(request)
        try:
            await self.gate.passing()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            self.cancelled += 1
            raise
        if self.error is not None:
            raise self.error
        return self.draw(request)

    def stream(self, request: ImageRequest) -> FakeImageStream:
        """Begin a stream."""
        self.requests.append(request)
        self.streams.append(FakeImageStream(self, request))
        return self.streams[-1]

    def draw(self, request: ImageRequest) -> Images:
        """Return `n` numbered images."""
        first_seed = request.seed or 0
        images = tuple(
            Image(f"image {number}".encode(), first_seed + number) for number in range(request.n)
        )
        return Images(images, request.width_px or 64, request.height_px or 48, self.usage)


class FakeImageStore:
    """An `ImageStore` in memory, with numbered names."""

    def __init__(self, base_url: str | None = None) -> None:
        self.base_url = base_url
        self.files: dict[str, bytes] = {}

    async def keep(self, data: bytes, format: ImageFormat) -> str:
        name = f"{len(self.files):022}.{format}"
        self.files[name] = data
        return name

    async def find(self, name: str) -> bytes | None:
        return self.files.get(name)


SECRET, PEPPER = "sk-one", b"pepper"
"""The secret of the key in `keys_of`."""


def keys_of(key: Key, *, is_known: bool = True) -> Keys:
    """Return keys in which `SECRET` authenticates one key."""
    keys = Keys(KeyRing([KeyDigest(key, digest(PEPPER, SECRET))], PEPPER))
    keys.is_known = is_known
    return keys


class FakeAdmission:
    """An `Admission` that records its releases."""

    def __init__(self) -> None:
        self.headers = {"x-ratelimit-limit-requests": "9"}
        self.released: list[int] = []

    def release(self, images: int = 0) -> None:
        self.released.append(images)


class FakeLimiter:
    """A `Limiter` that admits all requests, or refuses all with `error`."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls: list[tuple[Key, int]] = []
        self.pixel_steps: list[int] = []
        self.admissions: list[FakeAdmission] = []

    async def admit(self, key: Key, images: int = 0, pixel_steps: int = 0) -> FakeAdmission:
        self.calls.append((key, images))
        self.pixel_steps.append(pixel_steps)
        if self.error is not None:
            raise self.error
        self.admissions.append(FakeAdmission())
        return self.admissions[-1]

    @property
    def released(self) -> list[list[int]]:
        return [admission.released for admission in self.admissions]


class FakeAdministration:
    """An `Administration` in memory, with numbered secrets."""

    def __init__(self, rows: Sequence[UsageRow] = ()) -> None:
        self.keys: dict[str, Key] = {}
        self.rows = rows
        self.queries: list[UsageQuery] = []
        self.graces_s: list[float] = []
        self._secrets = 0

    async def create_key(self, fields: Mapping[str, Any]) -> NewSecret:
        if any(key.name == fields["name"] for key in self.keys.values()):
            raise InvalidRequestError("Another key has the name.", param="name")
        key = Key(**{"id": f"key{len(self.keys):05}", "tenant": fields["name"], **fields})
        self.keys[key.id] = key
        return self._to_new(key)

    async def list_keys(self) -> Sequence[Key]:
        return list(self.keys.values())

    async def get_key(self, id_or_name: str) -> Key:
        for key in self.keys.values():
            if id_or_name in (key.id, key.name):
                return key
        raise KeyNotFoundError("There is no such key.")

    async def change_key(self, id_or_name: str, changes: Mapping[str, Any]) -> Key:
        key = apply_changes(await self.get_key(id_or_name), changes)
        self.keys[key.id] = key
        return key

    async def rotate_key(self, id_or_name: str, grace_s: float) -> NewSecret:
        key = await self.get_key(id_or_name)
        self.graces_s.append(grace_s)
        return self._to_new(key)

    async def delete_key(self, id_or_name: str) -> None:
        key = await self.get_key(id_or_name)
        del self.keys[key.id]

    async def report_usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        self.queries.append(query)
        return self.rows

    def _to_new(self, key: Key) -> NewSecret:
        self._secrets += 1
        return NewSecret(key, f"secret {self._secrets}")


def build_models(
    llm: FakeLlm | None = None,
    encoder: FakeEncoder | None = None,
    painter: FakePainter | None = None,
    text: TextOptions | None = None,
    painter_capabilities: Mapping[str, Any] | None = None,
) -> Models:
    """Return three ready models, one of each kind."""
    text = text or TextOptions()
    return Models(
        Registry(
            [
                ModelEntry(LLM, "llm", "ready", llm or FakeLlm(), DEPLOYED_AT_S, text=text),
                ModelEntry(ENCODER, "embedding", "ready", encoder or FakeEncoder(), DEPLOYED_AT_S),
                ModelEntry(
                    PAINTER,
                    "diffusion",
                    "ready",
                    painter or FakePainter(),
                    DEPLOYED_AT_S,
                    capabilities=painter_capabilities or {},
                ),
            ]
        )
    )


def build_app(
    llm: FakeLlm | None = None,
    encoder: FakeEncoder | None = None,
    painter: FakePainter | None = None,
    *,
    keys: Keys | None = None,
    administration: FakeAdministration | None = None,
    text: TextOptions | None = None,
    **services: Any,
) -> Starlette:
    """Build the real application over fake models; without keys, authentication is off."""
    models = build_models(llm, encoder, painter, text)
    return create_app(models, keys, Services(**services), administration=administration)
