from typing import Any

import pytest
from pydantic import ValidationError

from deployments.config.embedding import EmbeddingArgs

MODEL = {"id": "m", "source": "fake:"}


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({"vllm": {"max_model_len": 64}}, "vllm takes effect with 'runner: vllm' only"),
        (
            {"runner": "vllm", "engine": {"dtype": "auto", "device": "cpu", "dimensions": "any"}},
            "these of engine have no effect: device, dtype;",
        ),
    ],
)
def test_options_without_effect_are_refused(args: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        EmbeddingArgs.model_validate({**MODEL, **args})


def test_options_that_both_runners_have_are_accepted_with_vllm() -> None:
    options = {"max_tokens": 9, "prompts": {"query": "q: "}, "prompt_name": "query"}

    args = EmbeddingArgs.model_validate({**MODEL, "runner": "vllm", "engine": options})

    assert args.engine.model_dump(include=set(options)) == options


def test_option_that_trust_decides_is_refused() -> None:
    with pytest.raises(ValidationError, match="trust_remote_code is decided by trust"):
        EmbeddingArgs.model_validate({**MODEL, "runner": "vllm", "vllm": {"trust_remote_code": 1}})
