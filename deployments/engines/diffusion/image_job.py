"""One image of a request: what to generate, how far it is, and who is told."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deployments.engines.diffusion.batch_settings import BatchSettings

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage


@dataclass(frozen=True, slots=True)
class ImageEvent:
    """A step of one image that has been taken, or the finished image."""

    index: int
    step: int
    image: "PilImage | None" = None
    """The finished image, or a preview if the job wants one of this step."""
    is_final: bool = False


@dataclass(slots=True, eq=False)
class ImageJob:
    """One image to generate, and its state.

    The batcher sets `is_cancelled`, `emit` and `on_step`; the thread that runs the pipeline changes
    the step counts.
    """

    index: int
    """Number of the image within its request."""
    settings: BatchSettings
    prompt: str
    negative_prompt: str | None
    seed: int
    image: "PilImage | None" = None
    """The image to start from, of the size in the settings."""
    mask: "PilImage | None" = None
    """Mode L, of the same size: white where to change `image`."""
    preview_steps: frozenset[int] = frozenset()
    """The steps, counted from 1, after which the client wants a preview."""
    wants_progress: bool = False
    """Whether the client wants an event for the other steps too."""
    steps_done: int = 0
    steps_reported: int = 0
    """Exceeds `steps_done` while an image is generated a second time, after its batch failed."""
    is_cancelled: bool = False
    """Set once the request has ended; the pipeline's thread reads it between two steps."""
    emit: Callable[[ImageEvent | BaseException], object] = field(default=lambda event: None)
    """Receives the job's events, or the error it failed with; called from any thread."""
    on_step: Callable[[], object] = field(default=lambda: None)
    """Called after every step, wanted or not, from the thread that runs the pipeline."""

    @property
    def wants_preview(self) -> bool:
        """Whether a preview of the step just taken is wanted and has not been sent."""
        return self.steps_done in self.preview_steps and self.steps_done > self.steps_reported

    def record_step(self, steps_done: int) -> None:
        """Record that `steps_done` steps have been taken."""
        self.steps_done = steps_done
        self.on_step()

    def report_step(self, preview: "PilImage | None" = None) -> None:
        """Emit an event for the step just taken, unless it is unwanted or was sent before."""
        if self.steps_done > self.steps_reported:
            self.steps_reported = self.steps_done
            if not self.wants_progress and preview is None:
                return  # waking the event loop would delay the next step
            self.emit(ImageEvent(self.index, self.steps_done, preview))

    def finish(self, image: "PilImage") -> None:
        """Emit the finished image, unless the request has ended."""
        if not self.is_cancelled:
            self.emit(ImageEvent(self.index, self.steps_done, image, is_final=True))
