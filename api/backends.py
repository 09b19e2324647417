"""The port between the HTTP face and the models: what crosses a handle, and who answers.

Everything here is plain data (frozen, slotted, picklable) or a Protocol. `deployments.handles`
implements the Protocols with Ray Serve; `tests/fakes.py` implements them with nothing.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from api.generation import Completion, Delta, Generation, Usage
from api.tenancy import Origin


class TextStream(Protocol):
    """A generation under way."""

    def __aiter__(self) -> AsyncIterator[Sequence[Delta]]:
        """Yield what has come since the last look, in order, until all of it has.

        Raises: ApiError when the generation fails half-way.
        """

    async def aclose(self) -> None:
        """Give up: the engine stops working on it. Safe at any time, also after the end."""

    @property
    def completion(self) -> Completion:
        """The final word; there only once the iteration has ended."""


class LlmBackend(Protocol):
    """A model that writes text."""

    async def complete(self, generation: Generation) -> Completion:
        """Write the whole answer. Cancelling this call stops the work."""

    def stream(self, generation: Generation) -> TextStream:
        """Write the answer piece by piece."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What becomes of inputs that are too long."""

    is_wanted: bool = False
    """Whether they are cut; they are refused else."""
    max_tokens: int | None = None
    """Cut to so many tokens each; None is the model's own maximum."""
    max_total_tokens: int | None = None
    """Most tokens of the whole request; it is refused beyond."""


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """Texts or token ids to be embedded."""

    request_id: str
    inputs: tuple[str | tuple[int, ...], ...]
    origin: Origin = field(default_factory=Origin)
    dimensions: int | None = None
    """How many of the model's dimensions to keep; None keeps all."""
    input_type: str | None = None
    """What the texts are, such as `query`: it chooses the prompt that goes before them."""
    input_type_name: str = "input_type"
    """What the client calls it."""
    cut: Cut = field(default_factory=Cut)


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Pairs of texts to be scored: one query for each document, or one for all of them."""

    request_id: str
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    names: tuple[str, str]
    """What the client calls queries and documents; errors name them."""
    origin: Origin = field(default_factory=Origin)
    is_search: bool = False
    """Whether the two sides differ in kind, and models with prompts for each use them."""
    cut: Cut = field(default_factory=Cut)


@dataclass(frozen=True, slots=True)
class Scores:
    """One score a document, in order."""

    scores: tuple[float, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class Embeddings:
    """One vector an input, in order; `vectors` is (N, dimensions) little-endian float32."""

    vectors: bytes
    dimensions: int
    usage: Usage


class EmbeddingBackend(Protocol):
    """A model that turns text into vectors, or pairs of texts into scores."""

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Embed all inputs. Cancelling this call stops the work."""

    async def score(self, request: ScoreRequest) -> Scores:
        """Score all pairs. Cancelling this call stops the work."""


PictureFormat = Literal["png", "webp", "jpeg"]
"""How a picture is written to a file."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """What the files of an answer are to be."""

    format: PictureFormat = "png"
    compression: int = 100
    """From 0 to 100, for WebP and JPEG: the quality that is kept."""


@dataclass(frozen=True, slots=True)
class Edit:
    """What a picture is to be made from: files that nobody has looked into yet."""

    image: bytes
    mask: bytes | None = None
    """Where it is transparent (or white, if nothing in it is), the picture is drawn anew."""
    strength: float | None = None
    """From 0, which changes nothing, to 1; None leaves it to the model's own default."""


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA adapter of an image model, and how much of it is to be seen."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One request for images. None leaves a value to the model's own defaults."""

    request_id: str
    prompt: str
    negative_prompt: str | None = None
    n: int = 1
    width_px: int | None = None
    height_px: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    true_cfg_scale: float | None = None
    """How strongly the negative prompt is kept away from, where guidance is something else."""
    seed: int | None = None
    origin: Origin = field(default_factory=Origin)
    scheduler: str | None = None
    loras: tuple[Lora, ...] = ()
    quality: str | None = None
    """A word that stands for a number of steps, where the model has one for it."""
    edit: Edit | None = None
    """None draws from nothing."""
    file: PictureFile = PictureFile()
    previews: int = 0
    """How many unfinished pictures a stream shows on the way."""


@dataclass(frozen=True, slots=True)
class Image:
    """One file, and the seed that makes it again."""

    data: bytes
    seed: int


@dataclass(frozen=True, slots=True)
class Images:
    """The images of one request, all of one size."""

    images: tuple[Image, ...]
    width_px: int
    height_px: int
    usage: Usage


class ImageStream(Protocol):
    """A picture being drawn."""

    def __aiter__(self) -> AsyncIterator[Sequence[Delta]]:
        """Yield what has come since the last look; each delta's `extra` holds a `Sketch`.

        Raises: ApiError when the drawing fails half-way.
        """

    async def aclose(self) -> None:
        """Give up: the engine stops between two steps. Safe at any time, also after the end."""

    @property
    def completion(self) -> Images:
        """What has been drawn; there only once the iteration has ended."""


class ImageBackend(Protocol):
    """A model that draws."""

    async def generate(self, request: ImageRequest) -> Images:
        """Draw all images. Cancelling this call stops the work between two steps."""

    def stream(self, request: ImageRequest) -> ImageStream:
        """Draw, and tell on the way how far it is."""


Backend = LlmBackend | EmbeddingBackend | ImageBackend
