"""`Sampling` → vLLM's `SamplingParams`."""

from typing import TYPE_CHECKING, Any

from api.errors import ContextLengthExceededError, InvalidRequestError
from api.ports.text import Sampling

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

_LEFT_TO_THE_MODEL = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_GREEDY_BELOW = 1e-5


def is_greedy(sampling: Sampling, defaults: dict[str, Any]) -> bool:
    """Whether only the likeliest token is taken; vLLM then refuses several choices."""
    temperature = sampling.temperature
    if temperature is None:
        temperature = defaults.get("temperature", 1.0)
    return bool(temperature < _GREEDY_BELOW)


def to_params(
    sampling: Sampling,
    defaults: dict[str, Any],
    *,
    n: int,
    max_tokens: int,
    is_streamed: bool,
    structured_outputs: "StructuredOutputsParams | None" = None,
) -> "SamplingParams":
    """What vLLM wants to know.

    Args:
        sampling: what the request says.
        defaults: of the model's own generation config, for what the request does not say.
        n: choices.
        max_tokens: as `find_max_tokens` has it.
        is_streamed: whether deltas are wanted.
        structured_outputs: what the answer must look like.

    Raises:
        VLLMValidationError: vLLM does not accept them.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    given = {name: getattr(sampling, name) for name in _LEFT_TO_THE_MODEL}
    own = {name: value for name, value in given.items() if value is not None}
    return SamplingParams(
        **{
            **defaults,
            **own,
            "n": n,
            "stop": list(sampling.stop),
            "stop_token_ids": [*sampling.stop_token_ids, *defaults.get("stop_token_ids", [])],
            "include_stop_str_in_output": sampling.include_stop_str_in_output,
            "max_tokens": max_tokens,
            "min_tokens": sampling.min_tokens,
            "seed": sampling.seed,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "logit_bias": sampling.logit_bias,
            "bad_words": list(sampling.bad_words),
            "allowed_token_ids": list(sampling.allowed_token_ids or ()) or None,
            "ignore_eos": sampling.ignore_eos,
            "skip_special_tokens": sampling.skip_special_tokens,
            "logprobs": sampling.logprobs,
            "prompt_logprobs": sampling.prompt_logprobs,
            "structured_outputs": structured_outputs,
            "output_kind": RequestOutputKind.DELTA if is_streamed else RequestOutputKind.FINAL_ONLY,
            "skip_clone": True,  # made for one request
        }
    )


def find_max_tokens(sampling: Sampling, prompt_tokens: int, context_tokens: int) -> int:
    """How many tokens may be written: what is asked for, else a default or all that fit.

    Raises:
        ContextLengthExceededError: the prompt, or it and what is asked for, do not fit. The wording is
            that of OpenAI's API in this case.
        InvalidRequestError: it is less than the least that is asked for.
    """
    room = context_tokens - prompt_tokens
    if room < 1:
        raise ContextLengthExceededError(
            f"This model's maximum context length is {context_tokens} tokens, but the prompt has "
            f"{prompt_tokens}. Please shorten the prompt."
        )
    asked = sampling.max_tokens
    if asked is not None and asked > room:
        raise ContextLengthExceededError(
            f"This model's maximum context length is {context_tokens} tokens, but "
            f"{prompt_tokens + asked} were requested ({prompt_tokens} in the prompt, {asked} in "
            "the completion). Please shorten the prompt or ask for fewer tokens.",
            param="max_tokens",
        )
    # With 0 only the prompt is wanted, but vLLM writes at least one token.
    most = max(asked, 1) if asked is not None else min(sampling.default_max_tokens or room, room)
    if sampling.min_tokens > most:
        raise InvalidRequestError(
            f"Invalid value for 'min_tokens': at most {most} tokens may be written.",
            param="min_tokens",
        )
    return most
