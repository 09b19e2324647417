"""A decoder as an encoder in vLLM, compared with the last token's state in transformers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.errors import ContextLengthExceededError
from api.ports.embeddings import EmbeddingRequest, ScoreRequest, Truncation
from deployments.config.embedding import EncoderOptions
from tests.helpers.tiny_models import make_decoder_encoder

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

TEXTS = ("hello world", "a", "The stock market fell sharply on Tuesday. " * 5)
MAX_TOKENS = 128


def expected_of(folder: Path, texts: tuple[str, ...]) -> Any:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for text in texts:
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        rows.append(torch.nn.functional.normalize(states[0, -1], dim=0).numpy())
    return np.stack(rows)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """vLLM is bound to the event loop that it was created on."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("qwen3")
    make_decoder_encoder(made)
    return made


@pytest.fixture(scope="module")
def engine(folder: Path, loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    from deployments.engines.embedding.vllm_encoder import VllmEncoderEngine

    async def build() -> Any:
        options = EncoderOptions(dimensions="any", prompts={"query": "find: "})
        vllm = {
            "dtype": "float32",
            "max_model_len": MAX_TOKENS,
            "enforce_eager": True,
            "kv_cache_memory_bytes": 1 << 28,
        }
        return VllmEncoderEngine(str(folder), options, vllm)

    engine = loop.run_until_complete(build())
    yield engine
    engine.shut_down()


def test_vectors_are_the_last_token_s_states(
    engine: Any, folder: Path, loop: asyncio.AbstractEventLoop
) -> None:
    answer = loop.run_until_complete(engine.embed(EmbeddingRequest("r", TEXTS)))

    rows = np.frombuffer(answer.vectors, "<f4").reshape(len(TEXTS), -1)
    cosines = (rows * expected_of(folder, TEXTS)).sum(axis=1)
    assert cosines == pytest.approx(1, abs=1e-5)


def test_dimensions_prompts_and_truncation_work_as_in_other_encoders(
    engine: Any, folder: Path, loop: asyncio.AbstractEventLoop
) -> None:
    request = EmbeddingRequest(
        "r",
        ("hello " * 500,),
        dimensions=8,
        input_type="query",
        truncation=Truncation(is_wanted=True),
    )

    answer = loop.run_until_complete(engine.embed(request))

    row = np.frombuffer(answer.vectors, "<f4")
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
    assert (answer.dimensions, answer.usage.prompt_tokens) == (8, MAX_TOKENS)


def test_too_long_input_is_refused_by_index(engine: Any, loop: asyncio.AbstractEventLoop) -> None:
    with pytest.raises(ContextLengthExceededError) as caught:
        loop.run_until_complete(engine.embed(EmbeddingRequest("r", ("a", "hello " * 500))))

    assert caught.value.param == "input[1]"


def test_score_is_the_cosine(engine: Any, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
    request = ScoreRequest("r", TEXTS[:1], TEXTS[1:], ("text_1", "text_2"))

    scores = loop.run_until_complete(engine.score(request))

    query, *documents = expected_of(folder, TEXTS)
    assert scores.scores == pytest.approx([each @ query for each in documents], abs=1e-5)


def test_loaded_engine_is_healthy_and_reports_its_limits(
    engine: Any, loop: asyncio.AbstractEventLoop
) -> None:
    loop.run_until_complete(engine.check_health())

    assert engine.capabilities["dimensions"] == 64
    assert engine.capabilities["max_tokens"] == MAX_TOKENS
