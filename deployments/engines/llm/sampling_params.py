"""`Sampling` → vLLM's `SamplingParams`."""

from typing import TYPE_CHECKING, Any

from api.errors import ContextLengthExceededError, InvalidRequestError
from api.ports.text import Sampling

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

_MODEL_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Members that fall back to the model's own generation config."""
_GREEDY_BELOW = 1e-5
"""vLLM's own threshold of the temperature: vllm/sampling_params.py, `_SAMPLING_EPS`."""


def is_greedy(sampling: Sampling, defaults: dict[str, Any]) -> bool:
    """Whether sampling is greedy; vLLM then refuses `n` above 1."""
    temperature = sampling.temperature
    if temperature is None:
        temperature = defaults.get("temperature", 1.0)
    return bool(temperature < _GREEDY_BELOW)


def to_sampling_params(
    sampling: Sampling,
    defaults: dict[str, Any],
    *,
    n: int,
    max_tokens: int,
    is_streamed: bool,
    structured_outputs: "StructuredOutputsParams | None" = None,
) -> "SamplingParams":
    """Convert to vLLM's parameters.

    Args:
        sampling: of the request.
        defaults: the model's own generation config, for values that the request leaves open.
        n: choices.
        max_tokens: from `find_max_tokens`.
        is_streamed: deltas instead of one whole output.
        structured_outputs: constraint on the output.

    Raises:
        VLLMValidationError: vLLM does not accept a value.
    """
    # From the module itself: the package looks each name up again.
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    given = {name: getattr(sampling, name) for name in _MODEL_DEFAULTS}
    requested = {name: value for name, value in given.items() if value is not None}
    return SamplingParams(
        **{
            **defaults,
            **requested,
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
    """Find the limit on the tokens of one choice: as requested, else the default or the context.

    Args:
        sampling: of the request.
        prompt_tokens: length of the prompt.
        context_tokens: of the model: prompt and completion together.

    Raises:
        ContextLengthExceededError: the prompt, or prompt and completion together, do not fit. The
            message is worded as OpenAI's.
        InvalidRequestError: `min_tokens` is above the limit.
    """
    room = context_tokens - prompt_tokens
    if room < 1:
        raise ContextLengthExceededError(
            f"This model's maximum context length is {context_tokens} tokens, but the prompt has "
            f"{prompt_tokens}. Please shorten the prompt."
        )
    requested = sampling.max_tokens
    if requested is not None and requested > room:
        raise ContextLengthExceededError(
            f"This model's maximum context length is {context_tokens} tokens, but "
            f"{prompt_tokens + requested} were requested ({prompt_tokens} in the prompt, "
            f"{requested} in the completion). Please shorten the prompt or ask for fewer tokens.",
            param="max_tokens",
        )
    if requested is None:
        limit = min(sampling.default_max_tokens or room, room)
    else:
        limit = max(requested, 1)  # 0 asks for the prompt only, but vLLM generates at least one
    if sampling.min_tokens > limit:
        raise InvalidRequestError.value("min_tokens", f"at most {limit} tokens may be generated")
    return limit
