"""What is trusted of a model reaches vLLM, and its options cannot load more than that."""

from typing import Any

import pytest

from deployments.config.base import ModelArgs
from deployments.config.embedding import EmbeddingArgs
from deployments.config.llm import LlmArgs
from deployments.engines.sources import EngineStartError
from deployments.models import embedding, llm


class RecordedEngine:
    """Records the options of vLLM instead of starting it."""

    def __init__(self, folder: str, *others: Any) -> None:
        self.options = next(each for each in others if isinstance(each, dict))


@pytest.fixture(autouse=True)
def _without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm, "VllmEngine", RecordedEngine)
    monkeypatch.setattr(embedding, "VllmEncoderEngine", RecordedEngine)


def build(kind: type[ModelArgs], options: dict[str, Any], *trust: str) -> Any:
    values: dict[str, Any] = {"id": "m", "source": "/models/m", "trust": trust}
    if kind is LlmArgs:
        return llm._build_engine(LlmArgs.model_validate({**values, "engine": options}), "/models/m")
    values |= {"runner": "vllm", "vllm": options}
    return embedding._build_engine(EmbeddingArgs.model_validate(values), "/models/m")


@pytest.mark.parametrize("kind", [LlmArgs, EmbeddingArgs])
def test_vllm_runs_code_of_a_model_if_code_is_trusted(kind: type[ModelArgs]) -> None:
    assert build(kind, {}).options["trust_remote_code"] is False
    assert build(kind, {}, "pickles", "unpinned").options["trust_remote_code"] is False
    assert build(kind, {}, "code").options["trust_remote_code"] is True


@pytest.mark.parametrize("kind", [LlmArgs, EmbeddingArgs])
@pytest.mark.parametrize(
    ("options", "trust"),
    [({"tokenizer": "org/tokenizer"}, "unpinned"), ({"load_format": "pt"}, "pickles")],
)
def test_vllm_does_not_start_with_an_option_that_is_not_trusted(
    kind: type[ModelArgs], options: dict[str, Any], trust: str
) -> None:
    with pytest.raises(EngineStartError, match=next(iter(options))):
        build(kind, options)

    assert build(kind, options, trust).options.items() >= options.items()
