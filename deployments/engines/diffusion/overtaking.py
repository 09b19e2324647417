"""Which images may be generated between two steps of a batch under way.

Without it, a small image would wait for all steps of a large one. The rule shares the engine by
pixel-steps: a batch is overtaken by no more work than it has done itself. So an image waits for
about as much of a larger one as it takes itself, and a larger one takes at most twice as long,
however many small ones come.
"""

from collections.abc import Sequence

from deployments.engines.diffusion.image_job import ImageJob


class RunningBatch:
    """A batch under way, and how much other work has been done between its steps."""

    def __init__(self, jobs: Sequence[ImageJob]) -> None:
        """Start with a batch that nothing has overtaken."""
        self._jobs = jobs
        self.overtaken_by = 0
        """Pixel-steps of the batches that were run between two steps of this one."""

    @property
    def cost(self) -> int:
        """Pixel-steps taken since the batch began, its own and those that overtook it."""
        return self._taken + self.overtaken_by

    def may_be_overtaken_by(self, jobs: Sequence[ImageJob]) -> bool:
        """Whether a batch of other images, all of the same settings, may be generated now.

        Images that take no less than one of this batch has left wait for its end: they may have
        the same settings as others that wait, and are then generated in one batch.
        """
        pixel_steps = jobs[0].settings.pixel_steps
        is_smaller = pixel_steps < self._left_per_image
        return is_smaller and self.overtaken_by + pixel_steps * len(jobs) <= self._taken

    @property
    def _taken(self) -> int:
        return self._jobs[0].settings.pixels * sum(job.steps_done for job in self._jobs)

    @property
    def _left_per_image(self) -> int:
        settings = self._jobs[0].settings
        steps_done = max(job.steps_done for job in self._jobs)
        return settings.pixels * (settings.steps_taken - steps_done)
