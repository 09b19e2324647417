"""Sequences that wait to be computed, sorted by length."""

from bisect import bisect_left
from collections.abc import Sequence, Sized
from typing import Any, NamedTuple

_MAX_PADDING = 16
_MAX_PADDING_SHARE = 8
"""Padding by 16 tokens, or by an eighth of the longest, costs less than a pass of its own."""


class WaitingSequence(NamedTuple):
    """One sequence of a request; ordered by length, then by arrival."""

    length: int
    """In tokens."""
    serial: int
    """Unique, in the order of arrival."""
    owner: Any
    """The request."""
    number: int
    """Index among the request's sequences."""


class LengthBuckets:
    """All waiting sequences in one sorted list, so that a batch is a slice of it."""

    def __init__(self, max_batch_tokens: int) -> None:
        """Make batches of at most `max_batch_tokens` tokens, padding included."""
        self._max_tokens = max_batch_tokens
        self._sorted: list[WaitingSequence] = []
        self._next_serial = 0

    def __len__(self) -> int:
        """How many sequences wait."""
        return len(self._sorted)

    def add(self, owner: Any, sequences: Sequence[Sized]) -> list[WaitingSequence]:
        """Add the sequences of a request and return their entries, shortest first."""
        added = [
            WaitingSequence(len(each), self._next_serial + number, owner, number)
            for number, each in enumerate(sequences)
        ]
        self._next_serial += len(added)
        added.sort()
        self._sorted.extend(added)
        self._sorted.sort()  # two sorted runs: one merge
        return added

    def discard(self, entries: Sequence[WaitingSequence]) -> None:
        """Remove entries that are still waiting."""
        removed = {each.serial for each in entries}
        self._sorted = [each for each in self._sorted if each.serial not in removed]

    def pop_bucket(self, seed: WaitingSequence) -> list[WaitingSequence]:
        """Remove and return a batch: `seed` and its neighbours in length, shortest first."""
        start = bisect_left(self._sorted, seed)
        stop = start + 1
        while start > 0 and self._fits(start - 1, stop):
            start -= 1
        while stop < len(self._sorted) and self._fits(start, stop + 1):
            stop += 1
        batch = self._sorted[start:stop]
        del self._sorted[start:stop]
        return batch

    def _fits(self, start: int, stop: int) -> bool:
        longest = self._sorted[stop - 1].length
        padding = longest - self._sorted[start].length
        is_near = padding <= max(_MAX_PADDING, longest // _MAX_PADDING_SHARE)
        return is_near and longest * (stop - start) <= self._max_tokens
