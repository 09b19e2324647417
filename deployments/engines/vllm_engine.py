"""vLLM's `AsyncLLM`, in process: prompts in, deltas out, nothing of its HTTP server."""

import asyncio
import copy
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from api.backends import (
    Completion,
    Conversation,
    Delta,
    Generation,
    Prompt,
    Sampling,
    Usage,
)
from api.errors import (
    ApiError,
    ContextLengthExceeded,
    EngineFailed,
    InvalidRequest,
    Overloaded,
    ReplicaLost,
)
from deployments.engines.vllm_output import VllmOutput

if TYPE_CHECKING:
    from vllm import SamplingParams

_INLINE_CHARS = 2000
"""Shorter prompts are tokenised on the event loop, in less time than a thread takes to start."""


class VllmEngine:
    """One vLLM engine; it runs in processes of its own and is driven from this event loop."""

    def __init__(self, model: str, options: dict[str, Any], stall_timeout_s: float) -> None:
        """Load the model; takes from seconds to minutes, and blocks.

        Args:
            model: a local folder.
            options: fields of vLLM's AsyncEngineArgs.
            stall_timeout_s: after so long without a token for outstanding work, `check_health`
                fails.

        Raises:
            TypeError: an option does not exist.
            Exception: whatever vLLM raises when it cannot load the model.
        """
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        # vLLM's statistics would cost a fifth of this process's time, and nobody reads them here.
        defaults = {"model": model, "enable_log_requests": False, "disable_log_stats": True}
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**{**defaults, **options}))
        self._tokenizer = self._engine.get_tokenizer()
        # A copy, because a fast tokenizer cannot be used by two threads at once.
        self._threads_tokenizer = copy.deepcopy(self._tokenizer)
        self._vocabulary = len(self._tokenizer)
        self._context_tokens: int = self._engine.model_config.max_model_len
        self._defaults = self._engine.model_config.get_diff_sampling_param()
        self._tokenizing = ThreadPoolExecutor(1, "tokenizer")
        self._stall_timeout_s = stall_timeout_s
        self._last_progress_s = time.monotonic()
        self._outstanding = 0
        self._serial_numbers = itertools.count()

    async def generate(
        self, generation: Generation, emit: Callable[[Delta], None] | None = None
    ) -> Completion:
        """Continue every prompt. Cancelling this call aborts the work in the engine.

        Args:
            generation: what to generate.
            emit: takes the deltas as they come; without it the choices are in the result.

        Raises:
            ContextLengthExceeded, InvalidRequest: the prompts do not fit this model.
            Overloaded: the engine's queue is full.
            EngineFailed, ReplicaLost: it failed at this request, or altogether.
        """
        prompts = [await self._tokenize(prompt) for prompt in generation.prompts]
        runs = [
            self._run(generation, number, token_ids, emit)
            for number, token_ids in enumerate(prompts)
        ]
        with self._working():
            results = [await runs[0]] if len(runs) == 1 else await _gather(runs)
        choices = [choice for result in results for choice in result.choices]
        usage = Usage(
            prompt_tokens=sum(result.usage.prompt_tokens for result in results),
            completion_tokens=sum(result.usage.completion_tokens for result in results),
            cached_tokens=sum(result.usage.cached_tokens for result in results),
        )
        return Completion(tuple(choices), usage)

    async def _run(
        self,
        generation: Generation,
        number: int,
        token_ids: list[int],
        emit: Callable[[Delta], None] | None,
    ) -> Completion:
        """Continue one prompt; its choices are numbered from `number * n` on."""
        from vllm.inputs.engine import tokens_input

        params = self._to_params(generation.sampling, len(token_ids), is_streamed=emit is not None)
        choices: list[Delta] = []
        first_index = number * generation.sampling.n
        output = VllmOutput(first_index, emit or choices.append, self._note_progress)
        # Two clients may choose the same id, and neither may abort the other's request.
        request_id = f"{generation.request_id}-{next(self._serial_numbers)}"
        with _translate_errors():
            try:
                output.stand_in_for(
                    await self._engine.add_request(request_id, tokens_input(token_ids), params)
                )
                await output.end
            except asyncio.CancelledError:
                await self._engine.abort(output.id or request_id, internal=output.id is not None)
                raise
        choices.sort(key=lambda choice: choice.index)
        usage = Usage(len(token_ids), output.completion_tokens, output.cached_tokens)
        return Completion(tuple(choices), usage)

    async def _tokenize(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt, special tokens included.

        Raises:
            InvalidRequest: a token id is not in the vocabulary, or the template refuses the roles.
        """
        if isinstance(prompt, tuple):
            if max(prompt) >= self._vocabulary:
                raise InvalidRequest(
                    f"Invalid value for 'prompt': this model's token ids end at "
                    f"{self._vocabulary - 1}.",
                    param="prompt",
                )
            return list(prompt)
        if _count_chars(prompt) < _INLINE_CHARS:
            return _encode(self._tokenizer, prompt)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._tokenizing, _encode, self._threads_tokenizer, prompt
        )

    def _to_params(
        self, sampling: Sampling, prompt_tokens: int, *, is_streamed: bool
    ) -> "SamplingParams":
        """What vLLM wants to know, with the model's own generation config for what is not given."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        kind = RequestOutputKind.DELTA if is_streamed else RequestOutputKind.FINAL_ONLY
        chosen = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        given = {name: value for name, value in chosen.items() if value is not None}
        return SamplingParams(
            **{
                **self._defaults,
                **given,
                "n": sampling.n,
                "stop": list(sampling.stop),
                "max_tokens": self._max_tokens(sampling.max_tokens, prompt_tokens),
                "seed": sampling.seed,
                "presence_penalty": sampling.presence_penalty,
                "frequency_penalty": sampling.frequency_penalty,
                "ignore_eos": sampling.ignore_eos,
                "output_kind": kind,
            }
        )

    def _max_tokens(self, asked: int | None, prompt_tokens: int) -> int:
        """How many tokens may be written: what is asked for, or all that fit.

        Source of the wording: what OpenAI's API answers in this case.
        """
        room = self._context_tokens - prompt_tokens
        if room < 1:
            raise ContextLengthExceeded(
                f"This model's maximum context length is {self._context_tokens} tokens, but the "
                f"prompt has {prompt_tokens}. Please shorten the prompt."
            )
        if asked is not None and asked > room:
            raise ContextLengthExceeded(
                f"This model's maximum context length is {self._context_tokens} tokens, but "
                f"{prompt_tokens + asked} were requested ({prompt_tokens} in the prompt, {asked} "
                "in the completion). Please shorten the prompt or ask for fewer tokens.",
                param="max_tokens",
            )
        return asked or room

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
    def unfinished_requests(self) -> int:
        """Sequences that vLLM has not finished or aborted, by its own count."""
        return int(self._engine.output_processor.get_num_unfinished_requests())

    async def check_health(self) -> None:
        """Prove that the engine lives and makes progress; vLLM itself only looks at a dead flag.

        Raises:
            ReplicaLost: it is dead, or has had work for too long without a token.
        """
        with _translate_errors():
            await self._engine.check_health()
        stalled_s = time.monotonic() - self._last_progress_s
        if self._outstanding and stalled_s > self._stall_timeout_s:
            raise ReplicaLost(f"The engine has made no progress for {stalled_s:.0f} seconds.")

    def shut_down(self) -> None:
        """End the engine's processes."""
        self._tokenizing.shutdown(wait=False)
        self._engine.shutdown()


async def _gather(runs: Sequence[Any]) -> list[Completion]:
    """Run all; the first failure, or a cancellation, aborts the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run) for run in runs]
    except* ApiError as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _encode(tokenizer: Any, prompt: str | Conversation) -> list[int]:
    if isinstance(prompt, str):
        return list(tokenizer.encode(prompt))
    return _encode_conversation(tokenizer, prompt)


def _encode_conversation(tokenizer: Any, conversation: Conversation) -> list[int]:
    from jinja2 import TemplateError

    messages = [
        {"role": message.role, "content": message.content}
        | ({"name": message.name} if message.name else {})
        for message in conversation.messages
    ]
    try:
        token_ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError:
        raise InvalidRequest(
            "Invalid value for 'messages': this model's chat template does not take this "
            "sequence of roles.",
            param="messages",
        ) from None
    except ValueError:
        raise InvalidRequest(
            "This model has no chat template; use /v1/completions.", param="model"
        ) from None
    return list(token_ids)


def _count_chars(prompt: str | Conversation) -> int:
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(message.content) for message in prompt.messages)


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Map vLLM's errors to our tree; their texts stay in the log."""
    from vllm import exceptions as vllm_errors
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise ReplicaLost("The engine that worked on this request was lost.") from error
    except (vllm_errors.QueueOverflowError, vllm_errors.MaxQueuedTokensError) as error:
        raise Overloaded("The model has more requests than it can take; try again.") from error
    except vllm_errors.VLLMValidationError as error:
        raise InvalidRequest(
            "The model does not accept this request's parameters.", param=error.parameter
        ) from error
    except vllm_errors.VLLMError as error:
        raise EngineFailed("The engine failed to answer this request.") from error
