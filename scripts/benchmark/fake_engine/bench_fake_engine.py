"""An engine without a model for vLLM 0.32: every running request gets one token each step.

vLLM takes both classes by name, `distributed_executor_backend` and `scheduler_cls`, so the real
EngineCore process runs them, with its real sockets, behind every front-end: vLLM's server, the Rust
front-end, Triptych. What is left of the engine's work is that process's: reading requests, and one
small record for each token. The folder of this file must be on PYTHONPATH.

`additional_config` says `step_ms`, the length of a step.
"""

import itertools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from transformers import AutoTokenizer
from vllm.config import VllmConfig
from vllm.v1.core.sched.interface import PauseState, SchedulerInterface
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.executor.abstract import Executor
from vllm.v1.metrics.stats import PrefillStats, SchedulerStats
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

TEXT = " the sea was calm and the keeper of the light wrote down what he saw"


class Clock:
    """Steps of equal length; a step after a pause begins at once."""

    def __init__(self, step_s: float) -> None:
        """Set the length of a step."""
        self._step_s = step_s
        self._ends_at = 0.0

    def sleep(self) -> None:
        """Wait for the end of the step."""
        now = time.monotonic()
        is_busy = now - self._ends_at < self._step_s
        self._ends_at = (self._ends_at if is_busy else now) + self._step_s
        time.sleep(max(0.0, self._ends_at - now))


class FakeExecutor(Executor):
    """Runs no model: a step only takes its time."""

    def _init_executor(self) -> None:
        self._clock = Clock(self.vllm_config.additional_config["step_ms"] / 1000)
        self._done: Future[ModelRunnerOutput] = Future()
        self._done.set_result(EMPTY_MODEL_RUNNER_OUTPUT)

    def execute_model(self, scheduler_output: SchedulerOutput, non_block: bool = False) -> Any:
        """Return when the step has ended; the scheduler knows the tokens."""
        self._clock.sleep()
        return self._done if non_block else EMPTY_MODEL_RUNNER_OUTPUT

    def collective_rpc(
        self,
        method: str | Callable[..., Any],
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        non_block: bool = False,
    ) -> Any:
        """Answer for one worker that has no KV cache, and nothing to do."""
        known = {
            "get_kv_cache_spec": {},
            "get_supported_kv_cache_layouts": ["LBNHC"],
            "get_supported_tasks": ("generate",),
        }
        return [] if method == "compile_or_warm_up_model" else [known.get(str(method))]

    def check_health(self) -> None:
        """Always healthy."""

    def shutdown(self) -> None:
        """Nothing to free."""


class FakeScheduler(SchedulerInterface):
    """Knows the running requests, and gives each the words of `TEXT`, over and over."""

    connector = None
    ec_connector = None

    def __init__(
        self, vllm_config: VllmConfig, *_: Any, log_stats: bool = False, **__: Any
    ) -> None:
        """Start without requests."""
        tokenizer = AutoTokenizer.from_pretrained(vllm_config.model_config.tokenizer)
        self._token_ids = tokenizer.encode(TEXT, add_special_tokens=False)
        self._log_stats = log_stats
        self._running: dict[str, _Running] = {}
        self._pause_state = PauseState.UNPAUSED
        self._step = SchedulerOutput.make_empty()
        self._step.total_num_scheduled_tokens = 1  # else EngineCore sleeps after each step

    def add_request(self, request: Request) -> None:
        """Run a request from the next step on."""
        self._running[request.request_id] = _Running(request, itertools.cycle(self._token_ids))

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        """Return an empty step: nothing reads it."""
        return self._step

    def update_from_output(
        self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput
    ) -> dict[int, EngineCoreOutputs]:
        """Give every running request its next token."""
        outputs: dict[int, list[EngineCoreOutput]] = {}
        for running in list(self._running.values()):
            output = running.advance()
            outputs.setdefault(running.client_index, []).append(output)
            if output.finish_reason is not None:
                del self._running[running.request_id]
        stats = self.make_stats()
        return {
            client: EngineCoreOutputs(outputs=each, scheduler_stats=stats)
            for client, each in outputs.items()
        }

    def finish_requests(
        self, request_ids: str | Iterable[str] | None, finished_status: RequestStatus
    ) -> list[Request]:
        """Forget requests whose client has left; None for all."""
        if request_ids is None:
            request_ids = list(self._running)
        names = [request_ids] if isinstance(request_ids, str) else request_ids
        known = [self._running.pop(name) for name in names if name in self._running]
        return [running.request for running in known]

    def get_num_unfinished_requests(self) -> int:
        """Count the running requests."""
        return len(self._running)

    def has_finished_requests(self) -> bool:
        """No worker must be told of finished requests."""
        return False

    def get_request_counts(self) -> tuple[int, int]:
        """Count running and waiting requests."""
        return len(self._running), 0

    def make_stats(self) -> SchedulerStats | None:
        """Count requests for the front-end's statistics, if it wants any."""
        return SchedulerStats(num_running_reqs=len(self._running)) if self._log_stats else None

    def get_grammar_bitmask(self, scheduler_output: SchedulerOutput) -> None:
        """No structured outputs."""

    def update_draft_token_ids(self, draft_token_ids: Any) -> None:
        """No drafts."""

    def update_draft_token_ids_in_output(self, draft_token_ids: Any, scheduler_output: Any) -> None:
        """No drafts."""

    @property
    def pause_state(self) -> PauseState:
        """Whether vLLM has paused the engine; it runs on."""
        return self._pause_state

    def set_pause_state(self, pause_state: PauseState) -> None:
        """Note the state."""
        self._pause_state = pause_state

    def reset_prefix_cache(
        self, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        """No cache."""
        return True

    def reset_encoder_cache(self) -> None:
        """No cache."""

    def shutdown(self) -> None:
        """Nothing to free."""


class _Running:
    """A request and the tokens that it still gets."""

    __slots__ = ("_left", "_prefill", "_tokens", "client_index", "request", "request_id")

    def __init__(self, request: Request, tokens: "itertools.cycle[int]") -> None:
        self.request = request
        self.request_id = request.request_id
        self.client_index = request.client_index
        self._tokens = tokens
        self._left = request.max_tokens
        count = request.num_prompt_tokens
        self._prefill: PrefillStats | None = PrefillStats(count, count)

    def advance(self) -> EngineCoreOutput:
        """Return the next token; with the first, what its prompt took."""
        self._left -= 1
        reason = None if self._left else FinishReason.LENGTH
        output = EngineCoreOutput(self.request_id, [next(self._tokens)], finish_reason=reason)
        output.prefill_stats, self._prefill = self._prefill, None
        return output
