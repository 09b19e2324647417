"""What an engine is: the one file to read before writing one.

An engine runs one model in one replica. It takes requests from `api.ports`, returns results from
`api.ports`, and knows nothing of HTTP, Ray, queues, limits or usage records. Engines import
`api.ports` and `api.errors` only, besides `deployments.config` and each other.

Who calls what, and when (`deployments/models/`, one file per kind of model):

1. The replica constructs the engine on its event loop. The constructor loads the model, may block
   for minutes, and raises whatever went wrong; the replica then fails to start.
2. The replica reads `capacity` once, and `capabilities` before it serves and after each change.
3. For each request the replica awaits `generate`, `embed` or `score`, on its event loop and
   concurrently. The engine validates the request, then awaits `progress.begin` exactly once, which
   waits for free capacity, then computes. Nothing may block the loop: a long computation belongs in
   a thread or a process (see `cancellable_thread` and `tokenizer_thread`).
4. Serve calls `check_health` every few seconds, also while requests are running.
5. The replica calls `shut_down` once, when it ends.

Streaming: `emit` is called on the event loop with each piece as soon as it exists. It returns at
once and does not raise. Without `emit`, the result holds everything; with it, see `LlmEngine`.

Cancellation: the caller cancels the awaited call when the client disconnects or the deadline
passes. The engine stops working on that request as soon as it can, frees what the request holds,
and lets `asyncio.CancelledError` through. Other requests, also of the same batch, are not affected.

Errors: an engine raises subclasses of `api.errors.ApiError`, and translates those of its library.
`InvalidRequestError` means that the request is at fault; it is raised before `progress.begin` where
possible, and the request is not charged. `EngineError` means that this request failed;
`ReplicaLostError` that the engine is dead. Any other exception reaches the client as
`InternalError`. `progress.usage` stays true in every case, because failed and cancelled requests
are charged for what they have used.

To add an engine for an existing kind of model, implement its Protocol below and select the class in
`_build_engine` of the replica in `deployments/models/`. `fakes.py` has the shortest examples.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Scores
from api.ports.images import ImageRequest, Images
from api.ports.stream import ImageProgress, TextDelta, Usage
from api.ports.text import Completion, Generation


class RequestProgress:
    """What one request has used so far; the engine writes it, and the replica reads it.

    This base class has no limits and no queue; `deployments.models.accounting` has both.
    """

    def __init__(self) -> None:
        """Start with nothing used."""
        self.usage = Usage(0)
        """Tokens used; the engine keeps it true, also when it fails or is cancelled."""
        self.images = 0
        """Finished images."""
        self.image_steps = self.image_pixel_steps = 0
        """Denoising steps taken, of all images; and the same times their pixels."""
        self.count_steps_left: Callable[[], int] | None = None
        """Returns the denoising steps still to take; None until the engine knows."""

    async def begin(self, tokens: int, size: int = 1) -> None:
        """Wait for the request's turn. The engine calls this once, after validation.

        Args:
            tokens: upper bound of prompt and completion tokens, reserved from the key's limit.
            size: how much of the engine's `capacity` the request occupies.

        Raises:
            RateLimitError: the key has no more tokens.
            OverloadedError: the queue is full.
        """

    def record_steps(self, images: int, steps: int, pixels: int) -> None:
        """Record `steps` denoising steps for each of `images` images of `pixels` pixels."""
        self.image_steps = images * steps
        self.image_pixel_steps = images * steps * pixels


class LlmEngine(Protocol):
    """An engine that generates text."""

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """Members of the model card in `/v1/models`: `max_tokens`, `reads_pictures`."""

    @property
    def capacity(self) -> int:
        """How many sequences are decoded at once."""

    @property
    def unfinished_requests(self) -> int:
        """How many requests are in the engine; 0 at rest."""

    async def generate(
        self,
        generation: Generation,
        emit: Callable[[TextDelta], None] | None = None,
        adapter: Any = None,
        progress: RequestProgress | None = None,
    ) -> Completion:
        """Continue every prompt `sampling.n` times. Cancelling this call aborts the generation.

        Args:
            generation: the request.
            emit: receives every delta; the completion then has no choices. Deltas of one choice
                come in order, and the last one has a finish reason. None collects whole choices.
            adapter: the LoRA adapter to use, as `load_adapter` returned it.
            progress: of this request; occupies one unit of capacity per choice.

        Raises:
            InvalidRequestError: the prompt or a parameter does not suit the model.
            ContextLengthExceededError: prompt and completion do not fit the model's context.
            RateLimitError, OverloadedError: from `progress.begin`.
            EngineError: the engine failed at this request.
            ReplicaLostError: the engine is dead.
        """

    async def load_adapter(self, name: str, number: int, folder: str) -> Any:
        """Load a LoRA adapter, and return what `generate` takes as `adapter`.

        Called before the first request that uses the adapter, and again if its files change.

        Args:
            name: as configured.
            number: unique in the life of the engine, from 1.
            folder: of the adapter's files.

        Raises:
            EngineError: the adapter cannot be loaded.
        """

    async def check_health(self) -> None:
        """Return if the engine works.

        Raises:
            Exception: the engine is dead or stalled; Serve restarts the replica.
        """

    def shut_down(self) -> None:
        """End threads and processes; does not wait for requests."""


class EmbeddingEngine(Protocol):
    """An engine that embeds texts or scores pairs of texts."""

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """Members of the model card in `/v1/models`: `task`, `max_tokens`, `dimensions` …."""

    @property
    def capacity(self) -> int:
        """How many requests are in the engine at once."""

    async def embed(
        self, request: EmbeddingRequest, progress: RequestProgress | None = None
    ) -> Embeddings:
        """Embed all inputs. Cancelling this call drops the inputs not yet started.

        Raises:
            InvalidRequestError: an input or parameter does not suit the model.
            ContextLengthExceededError: an input is too long for the model.
            WrongModelKindError: the model scores pairs only.
            RateLimitError, OverloadedError: from `progress.begin`.
            EngineError: the engine failed at this request.
            ReplicaLostError: the engine is dead.
        """

    async def score(self, request: ScoreRequest, progress: RequestProgress | None = None) -> Scores:
        """Score all pairs, by cosine similarity or by a cross-encoder.

        Cancelling this call drops the pairs not yet started. Raises what `embed` raises.
        """

    async def check_health(self) -> None:
        """Return if the engine works; may run a small input through the model.

        Raises:
            Exception: the engine is dead or stalled; Serve restarts the replica.
        """

    def shut_down(self) -> None:
        """End threads and processes; does not wait for requests."""


class DiffusionEngine(Protocol):
    """An engine that generates images."""

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """Members of the model card in `/v1/models`: sizes, defaults, schedulers …."""

    @property
    def capacity(self) -> int:
        """How many images are denoised at once."""

    async def generate(
        self,
        request: ImageRequest,
        progress: RequestProgress | None = None,
        emit: Callable[[ImageProgress], None] | None = None,
    ) -> Images:
        """Generate all images. Cancelling this call takes them out of their batch at the next step.

        The engine sets `progress.count_steps_left` before it begins, and calls
        `progress.record_steps` as steps are taken.

        Args:
            request: the request.
            progress: of this request; occupies one unit of capacity per image.
            emit: receives the progress of each step, with up to `request.previews` previews.

        Raises:
            InvalidRequestError: a parameter does not suit the model.
            InvalidImageFileError: an image to be edited cannot be used.
            RateLimitError, OverloadedError: from `progress.begin`.
            EngineError: the engine failed at this request.
            ReplicaLostError: the engine is dead.
        """

    def check_health(self) -> None:
        """Return if the engine works.

        Raises:
            Exception: the engine is dead or stalled; Serve restarts the replica.
        """

    def shut_down(self) -> None:
        """End threads and processes; does not wait for requests."""
