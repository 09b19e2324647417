"""What vLLM writes for one request, on its way out."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from api.errors import EngineError
from api.ports.stream import Delta, Extra, FinishReason

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, PoolingRequestOutput, RequestOutput
    from vllm.v1.engine.output_processor import RequestOutputCollector

_FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
"""vLLM has others, such as `repetition`: to a client they are a stop."""


class Reading(Protocol):
    """Finds more than text in what a model writes."""

    def read(
        self, output: "RequestOutput", choice: "CompletionOutput", reason: FinishReason | None
    ) -> tuple[str, FinishReason | None, Extra | None]:
        """What a piece holds: text, why it ended, and what else; may raise."""


class VllmOutput:
    """What becomes of one request to vLLM; every delta goes on the moment that it is there.

    It stands in for the queue between vLLM's output handler, which serves all requests, and a task
    of each (vLLM 0.32, v1/engine/output_processor.py: RequestOutputCollector). So no task wakes up
    for a token: that was a quarter of this process's time.
    """

    def __init__(
        self,
        first_index: int,
        emit: Callable[[Delta], None],
        note_progress: Callable[[], None],
        reading: Reading | None = None,
    ) -> None:
        """Number choices from `first_index` on; `emit` takes them, piece by piece."""
        self.id: str | None = None
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.completion_tokens = self.cached_tokens = 0
        self._note_progress = note_progress
        self._first_index = first_index
        self._emit = emit
        self._reading = reading

    def stand_in_for(self, queue: "RequestOutputCollector") -> None:
        """Take the queue's place, and what is in it.

        Raises:
            Exception: what vLLM has put there, if that is an error.
        """
        self.id = queue.request_id
        if (earlier := queue.get_nowait()) is not None:
            self._put(earlier)
        queue.put = self._put

    def _put(self, output: "RequestOutput | PoolingRequestOutput | Exception") -> None:
        """Must not raise: that would end vLLM's handler, and with it every request."""
        if isinstance(output, Exception):
            self._fail(output)
            return
        # Counted even when nobody waits any more: an abort brings what had been written by then.
        self.cached_tokens = output.num_cached_tokens or self.cached_tokens
        self.completion_tokens += sum(len(choice.token_ids) for choice in output.outputs)
        if self.end.done():
            return
        self._note_progress()
        for choice in output.outputs:
            self._take(output, choice)
        if output.finished and not self.end.done():
            self.end.set_result(None)

    def _take(self, output: "RequestOutput", choice: "CompletionOutput") -> None:
        reason: FinishReason | None = None
        if choice.finish_reason in ("abort", "error"):
            self._fail(EngineError("The engine failed to answer this request."))
            return
        if choice.finish_reason is not None:
            reason = _FINISH_REASONS.get(choice.finish_reason, "stop")
        text, extra = choice.text, None
        if self._reading is not None and not self.end.done():
            try:
                text, reason, extra = self._reading.read(output, choice, reason)
            except Exception as error:  # a parser of vLLM's, and there are many
                self._fail(error)
                return
        if text or extra is not None or reason is not None:
            self._emit(Delta(self._first_index + choice.index, text, reason, extra))

    def _fail(self, error: Exception) -> None:
        if not self.end.done():
            self.end.set_exception(error)
