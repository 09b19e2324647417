"""Image-steps that a replica has still to compute, waiting requests included."""

from collections.abc import Iterator
from contextlib import contextmanager

from api.ports.images import ImageRequest
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.diffusion.batch_settings import count_steps_taken
from deployments.engines.protocol import RequestProgress


class PendingSteps:
    """Counts the remaining steps of each open request; one step of one image is one image-step."""

    def __init__(self, options: DiffusionOptions) -> None:
        """Start without requests.

        Args:
            options: defaults for requests that do not say how many steps they want.
        """
        self._options = options
        self._open: dict[RequestProgress, ImageRequest] = {}

    @property
    def total(self) -> int:
        """Remaining image-steps of all open requests."""
        return sum(self._count(progress, request) for progress, request in self._open.items())

    @contextmanager
    def counting(self, request: ImageRequest, progress: RequestProgress) -> Iterator[None]:
        """Count a request's steps until the block ends."""
        self._open[progress] = request
        try:
            yield
        finally:
            del self._open[progress]

    def _count(self, progress: RequestProgress, request: ImageRequest) -> int:
        """The engine's exact count; before it has read the request, an estimate."""
        if progress.count_steps_left is not None:
            return progress.count_steps_left()
        options, edit = self._options, request.edit
        steps = options.find_steps(request.num_inference_steps, request.quality)
        strength = 1.0 if edit is None else edit.strength or options.strength
        return request.n * count_steps_taken(steps, strength)
