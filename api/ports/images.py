"""The ports to image models, and to the storage and fetching of images.

Requests and results are plain data (frozen, slotted, picklable), because they cross deployment
handles. `deployments.ingress` implements the Protocols; `tests/helpers/fakes.py` fakes them.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

from api.ports.stream import ImageProgress, ModelStream, Usage
from api.ports.tenancy import RequestContext

ImageFormat = Literal["png", "webp", "jpeg"]
"""Format of an image file."""


@dataclass(frozen=True, slots=True)
class ImageEncoding:
    """How to encode the images of an answer."""

    format: ImageFormat = "png"
    compression: int = 100
    """Quality from 0 to 100, for WebP and JPEG."""


@dataclass(frozen=True, slots=True)
class Edit:
    """The input of an edit: image files that are not decoded yet."""

    image: bytes
    mask: bytes | None = None
    """Its transparent pixels are repainted; without any, its white pixels."""
    strength: float | None = None
    """From 0 (changes nothing) to 1; None is the model's default."""


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA adapter of an image model, and its weight."""

    name: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One request for images; None stands for the model's default."""

    request_id: str
    prompt: str
    negative_prompt: str | None = None
    n: int = 1
    width_px: int | None = None
    height_px: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    true_cfg_scale: float | None = None
    """Scale of classifier-free guidance, for models whose `guidance_scale` is distilled."""
    seed: int | None = None
    context: RequestContext = field(default_factory=RequestContext)
    scheduler: str | None = None
    loras: tuple[Lora, ...] = ()
    quality: str | None = None
    """Name of a number of steps, which only some models have."""
    edit: Edit | None = None
    """None generates an image from the prompt alone."""
    file: ImageEncoding = ImageEncoding()
    previews: int = 0
    """How many unfinished images a stream shows."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image file, and the seed that reproduces it."""

    data: bytes
    seed: int


@dataclass(frozen=True, slots=True)
class Images:
    """The images of one request, all of the same size."""

    images: tuple[Image, ...]
    width_px: int
    height_px: int
    usage: Usage


ImageStream = ModelStream[ImageProgress, Images]
"""The generation of an image under way; closing it cancels it at the next step."""


class ImageBackend(Protocol):
    """A model that generates images."""

    async def generate(self, request: ImageRequest) -> Images:
        """Generate all images. Cancelling the call stops the generation at the next step."""

    def stream(self, request: ImageRequest) -> ImageStream:
        """Generate an image and stream the progress."""


class ImageStore(Protocol):
    """Stores images for a limited time, under names that cannot be guessed."""

    @property
    def base_url(self) -> str | None:
        """Scheme and host of URLs; None uses those of the request."""

    async def keep(self, data: bytes, format: ImageFormat) -> str:
        """Store a file and return its name: 128 random bits and the format's extension.

        Raises:
            ImageStoreError: it cannot be stored at the moment.
        """

    async def find(self, name: str) -> bytes | None:
        """Return the file with a name; None if it does not exist or has expired."""


class ImageFetcher(Protocol):
    """Fetches images from the hosts that the operator allows."""

    def check(self, url: str) -> None:
        """Check a URL without fetching it.

        Raises:
            InvalidImageError: the URL is not allowed.
        """

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        """Return the bytes at a URL.

        Raises:
            InvalidImageError: the fetch failed; the message does not reveal why.
        """
