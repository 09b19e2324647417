"""What vLLM writes for one request, on its way out."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from api.backends import Delta, FinishReason
from api.errors import EngineFailed

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, PoolingRequestOutput, RequestOutput
    from vllm.v1.engine.output_processor import RequestOutputCollector

_FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
"""vLLM has others, such as `repetition`: to a client they are a stop."""


class VllmOutput:
    """What becomes of one request to vLLM; every delta goes on the moment that it is there.

    It stands in for the queue between vLLM's output handler, which serves all requests, and a task
    of each (vLLM 0.32, v1/engine/output_processor.py: RequestOutputCollector). So no task wakes up
    for a token: that was a quarter of this process's time.
    """

    def __init__(
        self, first_index: int, emit: Callable[[Delta], None], note_progress: Callable[[], None]
    ) -> None:
        """Number choices from `first_index` on; `emit` takes them, piece by piece."""
        self.id: str | None = None
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.completion_tokens = self.cached_tokens = 0
        self._note_progress = note_progress
        self._first_index = first_index
        self._emit = emit

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
        if self.end.done():
            return
        if isinstance(output, Exception):
            self.end.set_exception(output)
            return
        self._note_progress()
        self.cached_tokens = output.num_cached_tokens or self.cached_tokens
        for choice in output.outputs:
            self._take(choice)
        if output.finished and not self.end.done():
            self.end.set_result(None)

    def _take(self, choice: "CompletionOutput") -> None:
        self.completion_tokens += len(choice.token_ids)
        reason = choice.finish_reason
        if reason is None:
            if choice.text:
                self._emit(Delta(self._first_index + choice.index, choice.text))
        elif reason in ("abort", "error"):
            self.end.set_exception(EngineFailed("The engine failed to answer this request."))
        else:
            ours = _FINISH_REASONS.get(reason, "stop")
            self._emit(Delta(self._first_index + choice.index, choice.text, ours))
