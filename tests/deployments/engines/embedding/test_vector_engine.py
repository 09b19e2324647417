"""What all engines of vectors share, with vectors that are the lengths of the sequences."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.errors import OverloadedError, UnsupportedParameterError
from api.ports.embeddings import EmbeddingRequest, ScoreRequest
from deployments.engines.embedding.inputs import InputReader, Tokens
from deployments.engines.embedding.prompts import Prompts
from deployments.engines.embedding.vector_engine import VectorEngine
from deployments.engines.embedding.vectors import EmbeddingSpec
from deployments.engines.protocol import RequestProgress
from tests.helpers.tiny_encoders import MAX_TOKENS, CountingTokenizer, make_tokenizer

TIMEOUT_S = 5.0


class LengthEngine(VectorEngine):
    """Two dimensions: the length of the sequence, and 1."""

    def __init__(self, tokenizer: Any) -> None:
        prompts = Prompts({}, {}, None)
        reader = InputReader(tokenizer, MAX_TOKENS, prompts, portion_chars=1)
        super().__init__(reader, prompts, EmbeddingSpec(2, None, is_normalized=False))
        self.encoded = 0

    async def _encode(
        self, sequences: Sequence[Tokens], request: EmbeddingRequest | ScoreRequest
    ) -> np.ndarray:
        self.encoded += len(sequences)
        return np.array([[len(each), 1] for each in sequences], np.float32)


class FullQueue(RequestProgress):
    async def begin(self, tokens: int, size: int = 1) -> None:
        raise OverloadedError("The queue is full.")


@pytest.fixture
def tokenizer(tmp_path: Path) -> CountingTokenizer:
    return CountingTokenizer(make_tokenizer(tmp_path))


@pytest.fixture
def engine(tokenizer: CountingTokenizer) -> Iterator[LengthEngine]:
    engine = LengthEngine(tokenizer)
    yield engine
    engine.shut_down()


async def test_vectors_and_usage_are_those_of_the_sequences(engine: LengthEngine) -> None:
    progress = RequestProgress()

    embeddings = await engine.embed(EmbeddingRequest("r", ("one", "one two")), progress)

    assert np.frombuffer(embeddings.vectors, "<f4").tolist() == [3, 1, 4, 1]
    assert embeddings.usage == progress.usage
    assert embeddings.usage.prompt_tokens == 7


async def test_request_that_the_queue_refuses_is_not_computed(engine: LengthEngine) -> None:
    with pytest.raises(OverloadedError):
        await engine.embed(EmbeddingRequest("r", ("one",)), FullQueue())

    assert engine.encoded == 0


async def test_wrong_dimensions_are_refused_before_tokenizing(
    engine: LengthEngine, tokenizer: CountingTokenizer
) -> None:
    tokenizer.batches.clear()

    with pytest.raises(UnsupportedParameterError):
        await engine.embed(EmbeddingRequest("r", ("one",), dimensions=1))

    assert tokenizer.batches == []


@pytest.mark.parametrize(
    ("inputs", "is_inline"),
    [(("one",), True), (("one two " * 1000,), False), (("one", "two"), False)],
    ids=["short", "long", "several"],
)
async def test_only_one_short_text_is_tokenized_on_the_event_loop(
    engine: LengthEngine, tokenizer: CountingTokenizer, inputs: tuple[str, ...], is_inline: bool
) -> None:
    tokenizer.threads.clear()

    await asyncio.gather(
        engine.embed(EmbeddingRequest("r", inputs)), return_exceptions=True
    )  # the long text is refused, once it has been tokenized

    assert (threading.main_thread() in tokenizer.threads) is is_inline


async def test_tokenizing_stops_when_the_request_is_cancelled(
    engine: LengthEngine, tokenizer: CountingTokenizer
) -> None:
    tokenizer.batches.clear()
    tokenizer.has_begun.clear()
    tokenizer.may_continue.clear()
    embedding = asyncio.create_task(engine.embed(EmbeddingRequest("r", ("a",) * 100)))
    await asyncio.to_thread(tokenizer.has_begun.wait, TIMEOUT_S)

    embedding.cancel()
    await asyncio.wait({embedding})
    tokenizer.may_continue.set()
    await engine.embed(EmbeddingRequest("r", ("a", "b")))  # after it in the same thread

    assert len(tokenizer.batches) == 1 + 2


async def test_score_is_the_cosine_of_the_sides(engine: LengthEngine) -> None:
    request = ScoreRequest("r", ("one",), ("two", "one two three"), ("text_1", "text_2"))

    scores = await engine.score(request)

    expected = (3 * 5 + 1) / np.linalg.norm([3, 1]) / np.linalg.norm([5, 1])
    assert scores.scores == pytest.approx((1, expected), abs=1e-6)
    assert scores.usage.prompt_tokens == 3 + 3 + 5
