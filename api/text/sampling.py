"""The sampling parameters that chat and completions share."""

from typing import Any

from api.errors import InvalidRequestError
from api.ports.text import Sampling
from api.schema.common import TextRequest
from api.settings import Limits

_SMALLEST_TOP_P = 1e-6


def to_sampling(
    request: TextRequest, max_tokens: int | None, default_max_tokens: int | None, **more: Any
) -> Sampling:
    """Translate the sampling parameters of a request."""
    allowed = request.allowed_token_ids
    return Sampling(
        temperature=request.temperature,
        # OpenAI allows 0, which means the likeliest token only; engines refuse it.
        top_p=_SMALLEST_TOP_P if request.top_p == 0 else request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        n=request.n,
        stop=tuple(request.stop),
        stop_token_ids=tuple(request.stop_token_ids),
        include_stop_str_in_output=request.include_stop_str_in_output,
        max_tokens=max_tokens,
        default_max_tokens=default_max_tokens,
        min_tokens=request.min_tokens,
        seed=request.seed,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        logit_bias=request.logit_bias or None,
        bad_words=tuple(request.bad_words),
        allowed_token_ids=None if allowed is None else tuple(allowed),
        ignore_eos=request.ignore_eos,
        skip_special_tokens=request.skip_special_tokens,
        **more,
    )


def check_text_request(request: TextRequest, prompts: int, limits: Limits) -> None:
    """Check the parameters that depend on each other.

    Raises:
        InvalidRequestError: too many choices, or `stream_options` without `stream`.
    """
    if prompts * request.n > limits.max_choices:
        raise InvalidRequestError.value(
            "n",
            f"{prompts} prompts with n={request.n} make {prompts * request.n} choices, and the "
            f"limit is {limits.max_choices}",
        )
    if request.stream_options is not None and not request.stream:
        raise InvalidRequestError.value(
            "stream_options", "it is only allowed when 'stream' is true"
        )
