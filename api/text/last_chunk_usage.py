"""The dialect that puts a stream's usage on the last chunk with content, instead of one more.

Which chunk is the last is known only when none follows, so each waits for the next.
"""

from collections.abc import Sequence
from dataclasses import replace

from api.ports.stream import Delta


class LastChunkBuffer:
    """The latest delta of a stream, kept until another one comes."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.delta: Delta | None = None

    def swap(self, deltas: Sequence[Delta]) -> list[Delta]:
        """Take new deltas and let go of all but the last; an end goes onto the text before it."""
        ready = []
        for delta in deltas:
            held = self.delta
            if held is None:
                self.delta = delta
            elif delta.index == held.index and not delta.text and delta.extra is None:
                self.delta = replace(held, finish_reason=delta.finish_reason)
            else:
                ready.append(held)
                self.delta = delta
        return ready
