"""Tokens of a replica's open requests, waiting ones included: prompts, and answers as expected."""

from collections.abc import Iterator
from contextlib import contextmanager

from api.ports.text import Generation
from deployments.engines.protocol import RequestProgress

_FIRST_MEAN = 256.0
"""Tokens of an answer before there has been one."""

_WEIGHT = 0.05
"""Of the latest answer in the mean: about the last forty count."""


class PendingTokens:
    """Counts each open request as its prompt and the answers that it will probably get.

    Few requests say how long their answer may be, and fewer get as much, so an answer counts as
    the mean of the latest ones, or as `max_tokens` if that is less.
    """

    def __init__(self) -> None:
        """Start without requests."""
        self._mean = _FIRST_MEAN
        self._open: dict[RequestProgress, Generation] = {}

    @property
    def total(self) -> int:
        """Tokens of all open requests."""
        return sum(self._count(progress, each) for progress, each in self._open.items())

    @contextmanager
    def counting(self, generation: Generation, progress: RequestProgress) -> Iterator[None]:
        """Count a request until the block ends, and learn from its answer."""
        self._open[progress] = generation
        try:
            yield
        finally:
            del self._open[progress]
        answers = len(generation.prompts) * generation.sampling.n
        latest = progress.usage.completion_tokens / answers
        self._mean += _WEIGHT * (latest - self._mean)

    def _count(self, progress: RequestProgress, generation: Generation) -> int:
        sampling = generation.sampling
        most = sampling.max_tokens or sampling.default_max_tokens or self._mean
        answers = len(generation.prompts) * sampling.n
        return round(progress.usage.prompt_tokens + answers * min(most, self._mean))
