"""Sequences that wait to be computed, in the order of their lengths."""

from bisect import bisect_left
from collections.abc import Sequence, Sized
from typing import Any, NamedTuple

_MIN_SLACK = 16
_SLACK_SHARE = 8
"""Padding of a sequence by 16 tokens, or by an eighth, costs less than a pass of its own."""


class WaitingSequence(NamedTuple):
    """One of the sequences of a request; compared by length, then by arrival."""

    length: int
    serial: int
    """Its place in the order of arrival; there are no two of one."""
    owner: Any
    """The request."""
    number: int
    """Which of the request's sequences."""


class Waiting:
    """All of them, sorted, so that a batch is a slice."""

    def __init__(self, max_batch_tokens: int) -> None:
        """Make batches of at most so many tokens, padding included."""
        self._max_tokens = max_batch_tokens
        self._all: list[WaitingSequence] = []
        self._serial = 0

    def __len__(self) -> int:
        """How many wait."""
        return len(self._all)

    def add(self, owner: Any, sequences: Sequence[Sized]) -> list[WaitingSequence]:
        """Take in the sequences of a request; given back in the order of their lengths."""
        added = [
            WaitingSequence(len(each), self._serial + number, owner, number)
            for number, each in enumerate(sequences)
        ]
        self._serial += len(added)
        added.sort()
        self._all.extend(added)
        self._all.sort()  # two sorted runs: one merge
        return added

    def discard(self, entries: Sequence[WaitingSequence]) -> None:
        """Take out some of those that wait."""
        gone = {each.serial for each in entries}
        self._all = [each for each in self._all if each.serial not in gone]

    def take_around(self, anchor: WaitingSequence) -> list[WaitingSequence]:
        """Take out a batch with `anchor` and its neighbours in length."""
        place = bisect_left(self._all, anchor)
        first = place  # of the slice
        last = place + 1  # not of the slice
        while first > 0 and self._fits(first - 1, last):
            first -= 1
        while last < len(self._all) and self._fits(first, last + 1):
            last += 1
        batch = self._all[first:last]
        del self._all[first:last]
        return batch

    def _fits(self, first: int, last: int) -> bool:
        width = self._all[last - 1].length
        shortest = self._all[first].length
        is_near = width - shortest <= max(_MIN_SLACK, width // _SLACK_SHARE)
        return is_near and width * (last - first) <= self._max_tokens
