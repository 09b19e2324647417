"""vLLM's output for one request → deltas."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from api.errors import EngineError
from api.ports.stream import Extra, FinishReason, TextDelta

if TYPE_CHECKING:
    from vllm.outputs import CompletionOutput, PoolingRequestOutput, RequestOutput
    from vllm.v1.engine.output_processor import RequestOutputCollector

_FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
"""All other reasons of vLLM, such as `repetition`, become `stop`."""


class Parser(Protocol):
    """Finds more than text in a model's output."""

    def parse(
        self, output: "RequestOutput", choice: "CompletionOutput", reason: FinishReason | None
    ) -> tuple[str, FinishReason | None, Extra | None]:
        """Return the text of a delta, its finish reason, and what else it holds.

        Raises:
            Exception: the output cannot be parsed; the request fails.
        """


class VllmOutput:
    """Passes on the output of one request to vLLM the moment it arrives.

    It replaces the queue between vLLM's output handler, which serves all requests, and a task per
    request (vLLM 0.32, v1/engine/output_processor.py: RequestOutputCollector). So no task wakes up
    for each token, which took a quarter of this process's time.
    """

    def __init__(
        self,
        first_index: int,
        emit: Callable[[TextDelta], None],
        record_progress: Callable[[], None],
        parser: Parser | None = None,
    ) -> None:
        """Create `end` on the running event loop.

        Args:
            first_index: number of the request's first choice.
            emit: receives each delta.
            record_progress: called for each output.
            parser: None if the output is nothing but text.
        """
        self.id: str | None = None
        """vLLM's own id of the request, once `replace_queue` has been called."""
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when all choices are finished, or with the error that ended the request."""
        self.has_begun = asyncio.Event()
        """Set with the first output, or with the error that ended the request."""
        self.completion_tokens = self.cached_tokens = 0
        self._record_progress = record_progress
        self._first_index = first_index
        self._emit = emit
        self._parser = parser

    def replace_queue(self, queue: "RequestOutputCollector") -> None:
        """Receive the outputs of `queue`, those that are in it included.

        Raises:
            Exception: the error in the queue, if there is one.
        """
        self.id = queue.request_id
        if (earlier := queue.get_nowait()) is not None:
            self._put(earlier)
        queue.put = self._put

    def _put(self, output: "RequestOutput | PoolingRequestOutput | Exception") -> None:
        """Must not raise: that would end vLLM's handler, and with it every request."""
        self.has_begun.set()
        if isinstance(output, Exception):
            self._fail(output)
            return
        # Counted even after cancellation: the abort brings the tokens generated until then.
        self.cached_tokens = output.num_cached_tokens or self.cached_tokens
        self.completion_tokens += sum(len(choice.token_ids) for choice in output.outputs)
        if self.end.done():
            return
        self._record_progress()
        for choice in output.outputs:
            self._pass_on(output, choice)
        if output.finished and not self.end.done():
            self.end.set_result(None)

    def _pass_on(self, output: "RequestOutput", choice: "CompletionOutput") -> None:
        reason: FinishReason | None = None
        if choice.finish_reason in ("abort", "error"):
            self._fail(EngineError("The engine failed to answer this request."))
            return
        if choice.finish_reason is not None:
            reason = _FINISH_REASONS.get(choice.finish_reason, "stop")
        text, extra = choice.text, None
        if self._parser is not None and not self.end.done():
            try:
                text, reason, extra = self._parser.parse(output, choice, reason)
            except Exception as error:  # any of vLLM's many parsers
                self._fail(error)
                return
        if text or extra is not None or reason is not None:
            self._emit(TextDelta(self._first_index + choice.index, text, reason, extra))

    def _fail(self, error: Exception) -> None:
        if not self.end.done():
            self.end.set_exception(error)
