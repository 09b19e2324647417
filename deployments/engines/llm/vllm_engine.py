"""vLLM's `AsyncLLM`, in process: prompts in, deltas out, without vLLM's HTTP server."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from api.errors import ApiError, EngineError
from api.ports.stream import TextDelta, Usage
from api.ports.text import Completion, Conversation, Generation, Prompt, Sampling
from deployments.engines.hardware import pick_vllm_dtype
from deployments.engines.llm.output_parsing import OutputParser
from deployments.engines.llm.prompt_renderer import PromptRenderer
from deployments.engines.llm.sampling_params import (
    find_max_tokens,
    is_greedy,
    to_sampling_params,
)
from deployments.engines.llm.schema_turns import SchemaTurns
from deployments.engines.llm.startup_errors import root_cause_of_failure
from deployments.engines.llm.token_bytes import TokenBytes
from deployments.engines.llm.vllm_chat import ChatOptions, RenderedPrompt
from deployments.engines.llm.vllm_errors import translate_errors
from deployments.engines.llm.vllm_output import VllmOutput
from deployments.engines.protocol import RequestProgress
from deployments.engines.stall_watch import StallWatch

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

DEFAULTS = {
    "enable_log_requests": False,
    # vLLM's statistics take a fifth of this process's time, and are not exported.
    "disable_log_stats": True,
}
"""Our defaults of AsyncEngineArgs, where they differ from vLLM's."""

STRUCTURED_OUTPUTS = {
    # One fixed backend, because with vLLM's automatic choice some requests break others. No
    # whitespace in JSON, because a small model can generate it without end.
    "backend": "xgrammar",
    "disable_any_whitespace": True,
}
"""Our defaults of StructuredOutputsConfig, where they differ from vLLM's."""


@dataclass(slots=True)
class _VllmRequest:
    """One request to vLLM: some or all choices of one prompt."""

    rendered: RenderedPrompt
    prompt: Prompt
    first_index: int
    n: int
    max_tokens: int
    adapter: "LoRARequest | None"
    output: VllmOutput | None = None
    parser: OutputParser | None = None


class VllmEngine:
    """An `LlmEngine`: vLLM runs in processes of its own, and this event loop drives it."""

    def __init__(
        self,
        model: str,
        options: dict[str, Any],
        stall_timeout_s: float,
        chat: ChatOptions = ChatOptions(),  # noqa: B008  # frozen
    ) -> None:
        """Load the model; takes from seconds to minutes, and blocks.

        Args:
            model: a local folder.
            options: fields of vLLM's AsyncEngineArgs.
            stall_timeout_s: `check_health` fails after this long with open requests and no token.
            chat: how the model chats.

        Raises:
            TypeError: an option does not exist.
            Exception: what vLLM raises when it cannot load the model.
        """
        from vllm import AsyncEngineArgs
        from vllm.config import StructuredOutputsConfig
        from vllm.v1.engine.async_llm import AsyncLLM

        structured = {**STRUCTURED_OUTPUTS, **options.get("structured_outputs_config", {})}
        engine_args = AsyncEngineArgs(
            **{
                "model": model,
                **DEFAULTS,
                **options,
                "dtype": pick_vllm_dtype(options.get("dtype", "auto")),
                "structured_outputs_config": StructuredOutputsConfig(**structured),
            }
        )
        with root_cause_of_failure():
            self._engine = AsyncLLM.from_engine_args(engine_args)
        self._prompts = PromptRenderer(self._engine, chat, options.get("reasoning_parser"))
        self._tokens = TokenBytes(self._engine.get_tokenizer())
        self._context_tokens: int = self._engine.model_config.max_model_len
        self._defaults = self._engine.model_config.get_diff_sampling_param()
        self._defaults.pop("max_tokens", None)
        self._stall_watch = StallWatch(stall_timeout_s)
        self._serial_numbers = itertools.count()
        self._schema_turns = SchemaTurns()

    async def generate(
        self,
        generation: Generation,
        emit: Callable[[TextDelta], None] | None = None,
        adapter: "LoRARequest | None" = None,
        progress: RequestProgress | None = None,
    ) -> Completion:
        """See `LlmEngine`. Cancelling this call aborts the generation in vLLM."""
        sampling = generation.sampling
        rendered = [
            await self._prompts.render(
                prompt, sampling, generation.context, is_streamed=emit is not None
            )
            for prompt in generation.prompts
        ]
        requests = [
            request
            for number, prompt in enumerate(generation.prompts)
            for request in self._to_requests(
                rendered[number], prompt, number * sampling.n, sampling, adapter
            )
        ]
        progress = progress or RequestProgress()
        if cache_salt := generation.context.cache_salt:
            for each in rendered:
                each.prompt["cache_salt"] = cache_salt
        prompt_tokens = sum(len(each.token_ids) for each in rendered)
        progress.usage = Usage(prompt_tokens)
        max_tokens = prompt_tokens + sum(each.n * each.max_tokens for each in requests)
        await progress.begin(max_tokens, size=sum(each.n for each in requests))
        with self._stall_watch.working():
            try:
                runs = [self._run(generation, each, emit) for each in requests]
                results = [await runs[0]] if len(runs) == 1 else await _gather(runs)
            finally:
                progress.usage = _count_usage(requests, sampling, prompt_tokens)
        choices = tuple(choice for result in results for choice in result)
        return Completion(choices, progress.usage)

    def _to_requests(
        self,
        rendered: RenderedPrompt,
        prompt: Prompt,
        first_index: int,
        sampling: Sampling,
        adapter: "LoRARequest | None",
    ) -> Iterator[_VllmRequest]:
        """One request for all choices; one per choice if sampling is greedy, as vLLM requires."""
        max_tokens = find_max_tokens(sampling, len(rendered.token_ids), self._context_tokens)
        n = 1 if is_greedy(sampling, self._defaults) else sampling.n
        for index in range(first_index, first_index + sampling.n, n):
            yield _VllmRequest(rendered, prompt, index, n, max_tokens, adapter)

    async def _run(
        self,
        generation: Generation,
        request: _VllmRequest,
        emit: Callable[[TextDelta], None] | None,
    ) -> list[TextDelta]:
        """Run one request; without `emit`, return its choices by index."""
        sampling, rendered = generation.sampling, request.rendered
        choices: list[TextDelta] = []
        request.parser = self._to_parser(sampling, request)
        request.output = output = VllmOutput(
            request.first_index,
            emit or choices.append,
            self._stall_watch.record_progress,
            request.parser,
        )
        # Clients choose request ids, so two requests may share one; the serial number is unique.
        request_id = f"{generation.request_id}-{next(self._serial_numbers)}"
        with translate_errors(_guess_param(generation)):
            params = to_sampling_params(
                sampling,
                self._defaults,
                n=request.n,
                max_tokens=request.max_tokens,
                is_streamed=emit is not None,
                structured_outputs=rendered.structured_outputs,
            )
            params.skip_special_tokens = rendered.skip_special_tokens
            try:
                async with self._turn_of(rendered, generation, output):
                    output.replace_queue(
                        await self._engine.add_request(
                            request_id,
                            rendered.prompt,
                            params,
                            lora_request=request.adapter,
                            **rendered.request_arguments,
                        )
                    )
                await output.end
            except BaseException:
                await self._engine.abort(output.id or request_id, internal=output.id is not None)
                raise
        choices.sort(key=lambda choice: choice.index)
        return choices

    def _turn_of(
        self, rendered: RenderedPrompt, generation: Generation, output: VllmOutput
    ) -> AbstractAsyncContextManager[None]:
        """Wait for the turn of a request with a schema; others need none."""
        constraint = rendered.structured_outputs
        if constraint is None:
            return nullcontext()
        return self._schema_turns.turn(
            repr((constraint.json, constraint.structural_tag, constraint.grammar)),
            generation.sampling.schema_cost_ms,
            generation.context,
            output.has_begun,
        )

    def _to_parser(self, sampling: Sampling, request: _VllmRequest) -> OutputParser | None:
        """None if the output is text only."""
        rendered = request.rendered
        has_logprobs = sampling.logprobs is not None or sampling.prompt_logprobs is not None
        if not has_logprobs and not sampling.echo and rendered.new_choice_parser is None:
            return None
        echo = self._prompts.to_text(request.prompt) if sampling.echo else ""
        return OutputParser(
            sampling, self._tokens, rendered.token_ids, echo, rendered.new_choice_parser
        )

    async def load_adapter(self, name: str, number: int, folder: str) -> "LoRARequest":
        """Load a LoRA adapter now, so that a broken one does not fail inside a batch.

        Raises:
            EngineError: vLLM cannot load the adapter.
        """
        from vllm.lora.request import LoRARequest

        request = LoRARequest(name, number, folder)
        try:
            is_loaded = await self._engine.add_lora(request)
        except Exception as error:  # vLLM's process returns every failure as a plain text
            raise EngineError("The adapter could not be loaded.") from error
        if not is_loaded:
            raise EngineError("The adapter could not be loaded.")
        return request

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """See `LlmEngine`."""
        reads_images = bool(self._engine.model_config.is_multimodal_model)
        return {"max_tokens": self._context_tokens, "reads_pictures": reads_images}

    @property
    def capacity(self) -> int:
        """How many sequences vLLM decodes at once; it queues more."""
        return int(self._engine.vllm_config.scheduler_config.max_num_seqs)

    @property
    def unfinished_requests(self) -> int:
        """Requests that vLLM has neither finished nor aborted, by its own count."""
        return int(self._engine.output_processor.get_num_unfinished_requests())

    async def check_health(self) -> None:
        """Return if the engine makes progress; vLLM's own check only tests a flag.

        Raises:
            ReplicaLostError: the engine is dead, or has open requests and no token for too long.
        """
        with translate_errors():
            await self._engine.check_health()
        self._stall_watch.check()

    def shut_down(self) -> None:
        """End vLLM's processes, and those that render prompts."""
        self._prompts.shut_down()
        self._engine.shutdown()


def _count_usage(requests: Sequence[_VllmRequest], sampling: Sampling, prompt_tokens: int) -> Usage:
    """Count what the requests have used so far; cached tokens count once per prompt."""
    begun = [(request, request.output) for request in requests if request.output is not None]
    is_completed = sampling.max_tokens != 0  # else the one token that vLLM generates is dropped
    return Usage(
        prompt_tokens,
        sum(output.completion_tokens for _, output in begun) if is_completed else 0,
        sum(
            output.cached_tokens
            for request, output in begun
            if request.first_index % sampling.n == 0
        ),
        sum(request.parser.reasoning_tokens for request, _ in begun if request.parser is not None),
    )


async def _gather(runs: Sequence[Coroutine[Any, Any, list[TextDelta]]]) -> list[list[TextDelta]]:
    """Run all at once; the first failure, or a cancellation, cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run) for run in runs]
    except* ApiError as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _guess_param(generation: Generation) -> str | None:
    """Guess the parameter at fault when vLLM names none: most often a schema."""
    if generation.sampling.json_schema is not None:
        return "response_format"
    has_tools = any(
        isinstance(prompt, Conversation) and prompt.tools for prompt in generation.prompts
    )
    return "tools" if has_tools else None
