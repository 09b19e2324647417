"""Buffer for streams whose usage is on the last chunk with content, not on a chunk of its own.

Only the end of the stream shows which chunk is the last, so each delta waits for the next one.
"""

from collections.abc import Sequence

import msgspec

from api.ports.stream import TextDelta


class LastChunkBuffer:
    """Holds back the latest delta of a stream."""

    def __init__(self) -> None:
        """Start empty."""
        self.delta: TextDelta | None = None

    def push(self, deltas: Sequence[TextDelta]) -> list[TextDelta]:
        """Add deltas and return all but the last; an empty last delta is merged into the text."""
        ready = []
        for delta in deltas:
            held = self.delta
            if held is None:
                self.delta = delta
            elif delta.index == held.index and not delta.text and delta.extra is None:
                self.delta = msgspec.structs.replace(held, finish_reason=delta.finish_reason)
            else:
                ready.append(held)
                self.delta = delta
        return ready
