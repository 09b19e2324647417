"""Image-steps that a replica has still to take: all of its requests, those that wait included."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from api.backends import ImageRequest
from api.generation import Delta
from deployments.config import DiffusionOptions

Emit = Callable[[Delta], None]


class OutstandingSteps:
    """What is left of each request, as its progress tells."""

    def __init__(self, options: DiffusionOptions) -> None:
        """Begin with none; `options` say how many steps a request has that does not."""
        self._options = options
        self.total = 0

    @contextmanager
    def counting(self, request: ImageRequest, emit: Emit | None = None) -> Iterator[Emit]:
        """Count a request's steps until the block ends, however it does.

        Yields:
            What the engine tells its progress to, which passes it on to `emit`.
        """
        steps = self._expect(request)
        left = request.n * steps
        taken: dict[int, int] = {}
        self.total += left

        def note(delta: Delta) -> None:
            nonlocal left
            sketch = delta.extra.sketch if delta.extra is not None else None
            if sketch is not None:
                # Its own word on how many there are counts: ours was a guess.
                taken[delta.index] = sketch.step
                now = max(request.n * sketch.steps - sum(taken.values()), 0)
                self.total += now - left
                left = now
            if emit is not None:
                emit(delta)

        try:
            yield note
        finally:
            self.total -= left

    def _expect(self, request: ImageRequest) -> int:
        """Steps of one of its images, before the engine has looked at it."""
        options, edit = self._options, request.edit
        named = options.qualities.get(request.quality or "", options.num_inference_steps)
        steps = request.num_inference_steps or named
        return steps if edit is None else int(steps * (edit.strength or options.strength))
