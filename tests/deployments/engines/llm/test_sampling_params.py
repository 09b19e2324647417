"""Limits and errors; tests/e2e sends the parameters to vLLM."""

import pytest

from api.errors import ContextLengthExceededError, InvalidRequestError
from api.ports.text import Sampling
from deployments.engines.llm.sampling_params import find_max_tokens, is_greedy


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), 90),
        (Sampling(max_tokens=5), 5),
        (Sampling(max_tokens=90), 90),
        (Sampling(max_tokens=0, echo=True), 1),
        (Sampling(default_max_tokens=16), 16),
        (Sampling(default_max_tokens=512), 90),
        (Sampling(max_tokens=5, default_max_tokens=16), 5),
        (Sampling(max_tokens=5, min_tokens=5), 5),
    ],
)
def test_limit_is_max_tokens_or_the_default_or_the_context(
    sampling: Sampling, expected: int
) -> None:
    assert find_max_tokens(sampling, prompt_tokens=10, context_tokens=100) == expected


def test_max_tokens_beyond_the_context_is_refused_with_both_lengths() -> None:
    with pytest.raises(ContextLengthExceededError, match=r"100 tokens, but 101 .*10 in .* 91 in"):
        find_max_tokens(Sampling(max_tokens=91), 10, 100)


@pytest.mark.parametrize("prompt_tokens", [100, 101])
def test_prompt_that_fills_the_context_is_refused_with_both_lengths(prompt_tokens: int) -> None:
    with pytest.raises(
        ContextLengthExceededError, match=f"100 tokens, but the prompt has {prompt_tokens}"
    ):
        find_max_tokens(Sampling(), prompt_tokens, 100)


def test_min_tokens_above_the_limit_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        find_max_tokens(Sampling(max_tokens=5, min_tokens=6), 10, 100)

    assert caught.value.param == "min_tokens"


@pytest.mark.parametrize(
    ("temperature", "defaults", "expected"),
    [
        (0.0, {}, True),
        (0.01, {}, False),
        (None, {}, False),
        (None, {"temperature": 0.0}, True),
        (1.0, {"temperature": 0.0}, False),
    ],
)
def test_sampling_is_greedy_at_temperature_0(
    temperature: float | None, defaults: dict[str, float], expected: bool
) -> None:
    assert is_greedy(Sampling(temperature=temperature), defaults) is expected
