"""What an engine and the replica around it tell each other about one request."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from api.ports.images import ImageRequest, Images
from api.ports.stream import Delta, Usage
from api.ports.text import Completion, Generation


class RequestProgress:
    """One request's way through a replica. This one knows no limits and waits for nobody."""

    def __init__(self) -> None:
        """Begin with nothing used."""
        self.usage = Usage(0)
        """What has been used; the engine keeps it true, also when it fails or is cancelled."""
        self.images = self.image_steps = self.image_pixel_steps = 0
        """Images that are done, and steps that have been taken, also for others."""
        self.count_steps_left: Callable[[], int] | None = None
        """How many steps of all its images are still to take, once the engine knows."""

    async def begin(self, tokens: int, size: int = 1) -> None:
        """Called once by the engine: the request is valid, and nothing has been computed yet.

        Args:
            tokens: the most that it can take, prompt and answer together.
            size: sequences that it keeps the engine busy with.

        Raises:
            RateLimitError: its key has no more tokens.
            OverloadedError: too many wait.
        """

    def record_steps(self, images: int, steps: int, pixels: int) -> None:
        """So many steps have been taken for each of so many images of so many pixels."""
        self.image_steps = images * steps
        self.image_pixel_steps = images * steps * pixels


class LlmEngine(Protocol):
    """What runs the model; the docstrings of `VllmEngine` hold for all."""

    async def generate(
        self,
        generation: Generation,
        emit: Callable[[Delta], None] | None = None,
        adapter: Any = None,
        work: RequestProgress | None = None,
    ) -> Completion:
        """Continue every prompt."""

    async def load_adapter(self, name: str, number: int, folder: str) -> Any:
        """A LoRA adapter as `generate` wants it."""

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What its card tells."""

    @property
    def capacity(self) -> int:
        """How many sequences it works on at once."""

    @property
    def unfinished_requests(self) -> int:
        """How many it works on."""

    async def check_health(self) -> None:
        """Raise if it does not work."""

    def shut_down(self) -> None:
        """Free what it holds."""


class EmbeddingEngine(Protocol):
    """What runs the model; the docstrings of `EncoderEngine` hold for all."""

    @property
    def capacity(self) -> int:
        """How many requests it works on at once."""

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What its card tells."""

    async def embed(
        self, request: EmbeddingRequest, work: RequestProgress | None = None
    ) -> Embeddings:
        """Embed all inputs."""

    async def score(self, request: ScoreRequest, work: RequestProgress | None = None) -> Scores:
        """Score all pairs."""

    async def check_health(self) -> None:
        """Raise if it does not work."""

    def shut_down(self) -> None:
        """Free what it holds."""


class DiffusionEngine(Protocol):
    """What runs the model; the docstrings of `DiffusersEngine` hold for all."""

    @property
    def capacity(self) -> int:
        """How many images it works on at once."""

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What clients may ask of the model."""

    async def generate(
        self,
        request: ImageRequest,
        work: RequestProgress | None = None,
        emit: Callable[[Delta], None] | None = None,
    ) -> Images:
        """Draw all images."""

    def check_health(self) -> None:
        """Raise if it does not work."""

    def shut_down(self) -> None:
        """Free what it holds."""
