"""The port between the HTTP face and the models: what crosses a handle, and who answers.

Everything here is plain data (frozen, slotted, picklable) or a Protocol. `deployments.ingress.handles`
implements the Protocols with Ray Serve; `tests/helpers/fakes.py` implements them with nothing.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from api.ports.stream import ImageProgress, Usage
from api.ports.tenancy import RequestContext

ImageFormat = Literal["png", "webp", "jpeg"]
"""How a picture is written to a file."""


@dataclass(frozen=True, slots=True)
class ImageEncoding:
    """What the files of an answer are to be."""

    format: ImageFormat = "png"
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
    context: RequestContext = field(default_factory=RequestContext)
    scheduler: str | None = None
    loras: tuple[Lora, ...] = ()
    quality: str | None = None
    """A word that stands for a number of steps, where the model has one for it."""
    edit: Edit | None = None
    """None draws from nothing."""
    file: ImageEncoding = ImageEncoding()
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

    def __aiter__(self) -> AsyncIterator[Sequence[ImageProgress]]:
        """Yield what has arrived since the last iteration.

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


class ImageStore(Protocol):
    """Keeps images for a while, under names that nobody can guess."""

    @property
    def base_url(self) -> str | None:
        """What URLs begin with; None is the request's own host."""

    async def keep(self, data: bytes, format: ImageFormat) -> str:
        """Store a file; gives its name, 128 random bits and the format's ending."""

    async def find(self, name: str) -> bytes | None:
        """The file of that name, if it is still there."""


class ImageFetcher(Protocol):
    """Fetches pictures from where the operator allows it."""

    def check(self, url: str) -> None:
        """Check a URL without fetching it; raises InvalidImageError if it is not allowed."""

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        """The bytes at a URL; raises InvalidImageError, which does not say why."""
