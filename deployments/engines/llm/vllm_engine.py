"""vLLM's `AsyncLLM`, in process: prompts in, deltas out, nothing of its HTTP server."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from api.errors import ApiError, EngineError, ReplicaLostError
from api.ports.stream import Delta, Usage
from api.ports.text import Completion, Conversation, Generation, Prompt, Sampling
from deployments.engines.llm.output_parsing import PromptReading
from deployments.engines.llm.prompt_tokenizer import PromptTokenizer, is_simple
from deployments.engines.llm.sampling_params import find_max_tokens, is_greedy, to_params
from deployments.engines.llm.token_bytes import TokenTexts
from deployments.engines.llm.vllm_chat import ChatOptions, Rendered, VllmChat
from deployments.engines.llm.vllm_errors import translate_errors
from deployments.engines.llm.vllm_output import VllmOutput
from deployments.engines.protocol import RequestProgress

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

DEFAULTS = {
    "enable_log_requests": False,
    # vLLM's statistics would cost a fifth of this process's time, and nobody reads them here.
    "disable_log_stats": True,
}
"""Fields of AsyncEngineArgs that are other than vLLM's."""

STRUCTURED_OUTPUTS = {
    # One backend, because some requests make vLLM's own choice of one go wrong for others; and no
    # blanks between the parts of JSON, for a small model can write them until it must stop.
    "backend": "xgrammar",
    "disable_any_whitespace": True,
}
"""Fields of StructuredOutputsConfig that are other than vLLM's."""


@dataclass(slots=True)
class _Run:
    """One request to vLLM: some of the choices of one prompt."""

    rendered: Rendered
    prompt: Prompt
    first_index: int
    n: int
    max_tokens: int
    lora: "LoRARequest | None"
    output: VllmOutput | None = None
    reading: PromptReading | None = None


class VllmEngine:
    """One vLLM engine; it runs in processes of its own and is driven from this event loop."""

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
            stall_timeout_s: after so long without a token for outstanding work, `check_health`
                fails.
            chat: how it chats.

        Raises:
            TypeError: an option does not exist.
            Exception: whatever vLLM raises when it cannot load the model.
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
                "structured_outputs_config": StructuredOutputsConfig(**structured),
            }
        )
        self._engine = AsyncLLM.from_engine_args(engine_args)
        self._tokenizer = PromptTokenizer(self._engine.get_tokenizer())
        self._texts = TokenTexts(self._tokenizer.tokenizer)
        self._chat = VllmChat(self._engine, chat, options.get("reasoning_parser"))
        self._context_tokens: int = self._engine.model_config.max_model_len
        self._defaults = self._engine.model_config.get_diff_sampling_param()
        self._defaults.pop("max_tokens", None)
        self._stall_timeout_s = stall_timeout_s
        self._last_progress_s = time.monotonic()
        self._outstanding = 0
        self._serial_numbers = itertools.count()

    async def generate(
        self,
        generation: Generation,
        emit: Callable[[Delta], None] | None = None,
        lora: "LoRARequest | None" = None,
        work: RequestProgress | None = None,
    ) -> Completion:
        """Continue every prompt. Cancelling this call aborts the work in the engine.

        Args:
            generation: what to generate.
            emit: takes the deltas as they come; without it the choices are in the result.
            lora: the adapter to use.
            work: is told what it will take, and what it has taken.

        Raises:
            ContextLengthExceededError, InvalidRequestError: the prompts do not fit this model.
            RateLimitError, OverloadedError: `work.begin` says so.
            EngineError, ReplicaLostError: it failed at this request, or altogether.
        """
        sampling = generation.sampling
        rendered = [
            await self._render(prompt, sampling, is_streamed=emit is not None)
            for prompt in generation.prompts
        ]
        runs = [
            run
            for number, prompt in enumerate(generation.prompts)
            for run in self._to_runs(rendered[number], prompt, number * sampling.n, sampling, lora)
        ]
        work = work or RequestProgress()
        if cache_salt := generation.context.cache_salt:
            for each in rendered:
                each.prompt["cache_salt"] = cache_salt
        prompt_tokens = sum(len(each.token_ids) for each in rendered)
        most_tokens = prompt_tokens + sum(run.n * run.max_tokens for run in runs)
        await work.begin(most_tokens, size=sum(run.n for run in runs))
        with self._working():
            try:
                working = [self._run(generation, run, emit) for run in runs]
                results = [await working[0]] if len(working) == 1 else await _gather(working)
            finally:
                work.usage = _count(runs, sampling, prompt_tokens)
        choices = tuple(choice for result in results for choice in result)
        return Completion(choices, work.usage)

    def _to_runs(
        self,
        rendered: Rendered,
        prompt: Prompt,
        first_index: int,
        sampling: Sampling,
        lora: "LoRARequest | None",
    ) -> Iterator[_Run]:
        """One run for all choices, or, where vLLM takes no more at a time, one for each."""
        max_tokens = find_max_tokens(sampling, len(rendered.token_ids), self._context_tokens)
        step = 1 if is_greedy(sampling, self._defaults) else sampling.n
        for index in range(first_index, first_index + sampling.n, step):
            yield _Run(rendered, prompt, index, step, max_tokens, lora)

    async def _run(
        self, generation: Generation, run: _Run, emit: Callable[[Delta], None] | None
    ) -> list[Delta]:
        """Continue one prompt; its choices are numbered from `run.first_index` on."""
        sampling, rendered = generation.sampling, run.rendered
        choices: list[Delta] = []
        run.reading = self._to_reading(sampling, run)
        run.output = output = VllmOutput(
            run.first_index, emit or choices.append, self._note_progress, run.reading
        )
        # Two clients may choose the same id, and neither may abort the other's request.
        request_id = f"{generation.request_id}-{next(self._serial_numbers)}"
        with translate_errors(_find_culprit(generation)):
            params = to_params(
                sampling,
                self._defaults,
                n=run.n,
                max_tokens=run.max_tokens,
                is_streamed=emit is not None,
                structured_outputs=rendered.structured_outputs,
            )
            params.skip_special_tokens = rendered.skip_special_tokens
            try:
                output.stand_in_for(
                    await self._engine.add_request(
                        request_id, rendered.prompt, params, lora_request=run.lora, **rendered.more
                    )
                )
                await output.end
            except BaseException:
                await self._engine.abort(output.id or request_id, internal=output.id is not None)
                raise
        choices.sort(key=lambda choice: choice.index)
        return choices

    def _to_reading(self, sampling: Sampling, run: _Run) -> PromptReading | None:
        """None where there is nothing but text to be read."""
        has_more = sampling.logprobs is not None or sampling.prompt_logprobs is not None
        if not has_more and not sampling.echo and run.rendered.new_reader is None:
            return None
        echoed = self._tokenizer.to_text(run.prompt) if sampling.echo else ""
        return PromptReading(
            sampling, self._texts, run.rendered.token_ids, echoed, run.rendered.new_reader
        )

    async def _render(self, prompt: Prompt, sampling: Sampling, *, is_streamed: bool) -> Rendered:
        """A prompt as the engine takes it.

        Raises:
            InvalidRequestError: a token id is not in the vocabulary, or the template refuses the roles.
        """
        from vllm.inputs.engine import tokens_input
        from vllm.sampling_params import StructuredOutputsParams

        if isinstance(prompt, Conversation):
            self._chat.check(prompt)
            if not (self._chat.is_simple and is_simple(prompt)):
                return await self._chat.render(prompt, sampling, is_streamed=is_streamed)
        token_ids = await self._tokenizer.to_ids(prompt)
        schema = sampling.json_schema
        return Rendered(
            tokens_input(token_ids),
            token_ids,
            StructuredOutputsParams(json=schema) if schema is not None else None,
            sampling.skip_special_tokens,
            new_reader=None,
            more={},
        )

    async def load_adapter(self, name: str, number: int, folder: str) -> "LoRARequest":
        """Load a LoRA adapter now, so that a broken one fails here and not amid others' work.

        Raises:
            EngineError: vLLM cannot load it.
        """
        from vllm.lora.request import LoRARequest

        request = LoRARequest(name, number, folder)
        try:
            is_loaded = await self._engine.add_lora(request)
        except Exception as error:  # whatever was wrong in there, as text from another process
            raise EngineError("The adapter could not be loaded.") from error
        if not is_loaded:
            raise EngineError("The adapter could not be loaded.")
        return request

    def _note_progress(self) -> None:
        self._last_progress_s = time.monotonic()

    @contextmanager
    def _working(self) -> Iterator[None]:
        if not self._outstanding:
            self._note_progress()
        self._outstanding += 1
        try:
            yield
        finally:
            self._outstanding -= 1

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What its card tells."""
        reads_pictures = bool(self._engine.model_config.is_multimodal_model)
        return {"max_tokens": self._context_tokens, "reads_pictures": reads_pictures}

    @property
    def capacity(self) -> int:
        """How many sequences it decodes at once; more wait in it."""
        return int(self._engine.vllm_config.scheduler_config.max_num_seqs)

    @property
    def unfinished_requests(self) -> int:
        """Sequences that vLLM has not finished or aborted, by its own count."""
        return int(self._engine.output_processor.get_num_unfinished_requests())

    async def check_health(self) -> None:
        """Prove that the engine lives and makes progress; vLLM itself only looks at a dead flag.

        Raises:
            ReplicaLostError: it is dead, or has had work for too long without a token.
        """
        with translate_errors():
            await self._engine.check_health()
        stalled_s = time.monotonic() - self._last_progress_s
        if self._outstanding and stalled_s > self._stall_timeout_s:
            raise ReplicaLostError(f"The engine has made no progress for {stalled_s:.0f} seconds.")

    def shut_down(self) -> None:
        """End the engine's processes."""
        self._tokenizer.shut_down()
        self._chat.shut_down()
        self._engine.shutdown()


def _count(runs: Sequence[_Run], sampling: Sampling, prompt_tokens: int) -> Usage:
    """What the runs have taken so far; a prompt's cached tokens count once."""
    begun = [(run, run.output) for run in runs if run.output is not None]
    is_wanted = sampling.max_tokens != 0  # else vLLM has written one that nobody asked for
    return Usage(
        prompt_tokens,
        sum(output.completion_tokens for _, output in begun) if is_wanted else 0,
        sum(output.cached_tokens for run, output in begun if run.first_index % sampling.n == 0),
        sum(run.reading.reasoning_tokens for run, _ in begun if run.reading is not None),
    )


async def _gather(runs: Sequence[Any]) -> list[list[Delta]]:
    """Run all; the first failure, or a cancellation, aborts the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run) for run in runs]
    except* ApiError as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _find_culprit(generation: Generation) -> str | None:
    """What is at fault when vLLM refuses something without a name: most often a schema."""
    if generation.sampling.json_schema is not None:
        return "response_format"
    has_tools = any(
        isinstance(prompt, Conversation) and prompt.tools for prompt in generation.prompts
    )
    return "tools" if has_tools else None
