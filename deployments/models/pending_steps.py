"""Image-steps that a replica has still to take: all of its requests, those that wait included."""

from collections.abc import Iterator
from contextlib import contextmanager

from api.ports.images import ImageRequest
from deployments.config.diffusion import DiffusionOptions
from deployments.engines.protocol import RequestProgress


class OutstandingSteps:
    """What is left of each request."""

    def __init__(self, options: DiffusionOptions) -> None:
        """Begin with none; `options` say how many steps a request has that does not."""
        self._options = options
        self._open: dict[RequestProgress, ImageRequest] = {}

    @property
    def total(self) -> int:
        """Of all requests together."""
        return sum(self._count(work, request) for work, request in self._open.items())

    @contextmanager
    def counting(self, request: ImageRequest, work: RequestProgress) -> Iterator[None]:
        """Count a request's steps until the block ends, however it does."""
        self._open[work] = request
        try:
            yield
        finally:
            del self._open[work]

    def _count(self, work: RequestProgress, request: ImageRequest) -> int:
        """The engine's word counts; before it has looked at the request, ours is a guess."""
        if work.count_steps_left is not None:
            return work.count_steps_left()
        options, edit = self._options, request.edit
        steps = options.find_steps(request.num_inference_steps, request.quality)
        return request.n * (
            steps if edit is None else int(steps * (edit.strength or options.strength))
        )
