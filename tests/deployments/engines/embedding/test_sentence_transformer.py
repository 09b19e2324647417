"""A tiny encoder, compared with sentence-transformers' own `encode`."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api.errors import ContextLengthExceededError, InvalidRequestError, UnsupportedParameterError
from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Truncation
from deployments.config.embedding import EncoderOptions
from deployments.engines.embedding.sentence_transformer import SentenceTransformerEngine
from deployments.engines.protocol import RequestProgress
from tests.helpers.tiny_encoders import MAX_TOKENS, WORDS, make_encoder

OPTIONS = EncoderOptions(
    dtype="float32",
    device="cpu",
    max_batch_tokens=200,
    prompts={"query": "query : ", "passage": "passage : "},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("encoder")
    make_encoder(made)
    return str(made / "model")


@pytest.fixture(scope="module")
def engine(folder: str) -> Iterator[SentenceTransformerEngine]:
    engine = SentenceTransformerEngine(folder, OPTIONS)
    yield engine
    engine.shut_down()


@pytest.fixture(scope="module")
def reference(folder: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, device="cpu", local_files_only=True)


def text_of(words: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


async def embed(
    engine: SentenceTransformerEngine, *inputs: str | tuple[int, ...], **members: Any
) -> np.ndarray:
    embeddings = await engine.embed(EmbeddingRequest("r", inputs, **members))
    return to_rows(embeddings)


def to_rows(embeddings: Embeddings) -> np.ndarray:
    rows: np.ndarray = np.frombuffer(embeddings.vectors, "<f4")
    return rows.reshape(-1, embeddings.dimensions)


def lowest_cosine(rows: np.ndarray, expected: Sequence[Any]) -> float:
    return float((rows * np.array(expected)).sum(axis=1).min())


async def test_vectors_are_sentence_transformers_s(
    engine: SentenceTransformerEngine, reference: Any
) -> None:
    texts = [text_of(words, words) for words in (1, 60, 2, 30, 3)]

    rows = await embed(engine, *texts)

    assert lowest_cosine(rows, reference.encode(texts)) == pytest.approx(1, abs=1e-5)


async def test_vectors_are_the_same_in_any_batch(
    engine: SentenceTransformerEngine, reference: Any
) -> None:
    requests = [
        [text_of(1 + (7 * number + 13 * request) % 60, number) for number in range(8)]
        for request in range(12)
    ]

    answers = await asyncio.gather(*(embed(engine, *texts) for texts in requests))

    lowest = min(
        lowest_cosine(rows, reference.encode(texts))
        for rows, texts in zip(answers, requests, strict=True)
    )
    assert lowest == pytest.approx(1, abs=1e-5)


@contextmanager
def forward_passes() -> Iterator[list[Any]]:
    """The outputs of all forward passes of encoders inside the block."""
    import torch
    from sentence_transformers import SentenceTransformer

    outputs: list[Any] = []

    def record(module: Any, inputs: Any, output: Any) -> None:
        outputs.extend([output] * isinstance(module, SentenceTransformer))

    hook = torch.nn.modules.module.register_module_forward_hook(record)
    yield outputs
    hook.remove()


async def test_requests_share_batches(engine: SentenceTransformerEngine) -> None:
    with forward_passes() as passes:
        await asyncio.gather(*(embed(engine, "one two") for _ in range(40)))

    assert 0 < len(passes) < 20


async def test_usage_is_exact(engine: SentenceTransformerEngine) -> None:
    progress = RequestProgress()

    embeddings = await engine.embed(EmbeddingRequest("r", ("one two", (4, 5, 6))), progress)

    assert embeddings.usage.prompt_tokens == progress.usage.prompt_tokens == 2 + 2 + 3 + 2


async def test_token_ids_are_embedded_like_their_text(engine: SentenceTransformerEngine) -> None:
    ids = tuple(4 + WORDS.index(word) for word in ("one", "two"))

    text, by_ids = await embed(engine, "one two", ids)

    assert np.array_equal(text, by_ids)


async def test_token_id_outside_the_vocabulary_is_refused(
    engine: SentenceTransformerEngine,
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await embed(engine, (10_000,))

    assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("inputs", "param"), [(("one ", 70), "input"), (("one ", 70, "two"), "input[0]")]
)
async def test_too_long_input_is_refused_by_index_and_count(
    engine: SentenceTransformerEngine, inputs: Any, param: str
) -> None:
    text, times, *others = inputs
    with pytest.raises(ContextLengthExceededError, match="Input 0 has 72 tokens") as caught:
        await embed(engine, text * times, *others)

    assert caught.value.param == param


@pytest.mark.parametrize("limit", [None, 10])
async def test_input_is_truncated_if_wanted(
    engine: SentenceTransformerEngine, reference: Any, limit: int | None
) -> None:
    text = text_of(100)
    truncation = Truncation(is_wanted=True, max_tokens=limit)

    embeddings = await engine.embed(EmbeddingRequest("r", (text,), truncation=truncation))

    words = (limit or MAX_TOKENS) - 2
    expected = reference.encode([" ".join(text.split()[:words])])
    assert embeddings.usage.prompt_tokens == words + 2
    assert lowest_cosine(to_rows(embeddings), expected) == pytest.approx(1, abs=1e-5)


async def test_inputs_beyond_the_request_s_total_are_refused(
    engine: SentenceTransformerEngine,
) -> None:
    truncation = Truncation(max_total_tokens=6)

    await embed(engine, "one", "two", truncation=truncation)
    with pytest.raises(InvalidRequestError, match="7 tokens") as caught:
        await embed(engine, "one", "two two", truncation=truncation)
    assert caught.value.param == "input"


@pytest.mark.parametrize("input_type", ["query", "passage"])
async def test_input_type_chooses_the_prompt(
    engine: SentenceTransformerEngine, reference: Any, input_type: str
) -> None:
    rows = await embed(engine, "one two", input_type=input_type)

    expected = reference.encode(["one two"], prompt=f"{input_type} : ")
    assert lowest_cosine(rows, expected) == pytest.approx(1, abs=1e-5)


async def test_unknown_input_type_is_refused(engine: SentenceTransformerEngine) -> None:
    with pytest.raises(UnsupportedParameterError):
        await embed(engine, "one", input_type="title")


async def test_shortened_vectors_are_normalized(engine: SentenceTransformerEngine) -> None:
    (whole,) = await embed(engine, "one two")
    (short,) = await embed(engine, "one two", dimensions=8)

    assert short == pytest.approx(whole[:8] / np.linalg.norm(whole[:8]), abs=1e-6)


async def test_other_dimensions_are_refused(engine: SentenceTransformerEngine) -> None:
    with pytest.raises(InvalidRequestError, match="one of 8, 32"):
        await embed(engine, "one", dimensions=9)


async def test_score_is_the_cosine_of_query_and_document(
    engine: SentenceTransformerEngine, reference: Any
) -> None:
    documents = ("one two", "three")

    request = ScoreRequest("r", ("four",), documents, ("query", "documents"), is_search=True)
    scores = await engine.score(request)

    query = reference.encode(["four"], prompt="query : ")[0]
    expected = reference.encode(list(documents), prompt="passage : ") @ query
    assert scores.scores == pytest.approx(expected.tolist(), abs=1e-5)
    assert scores.usage.prompt_tokens == 5 + 6 + 5


async def test_scores_that_are_no_search_use_no_prompts(
    engine: SentenceTransformerEngine, reference: Any
) -> None:
    request = ScoreRequest("r", ("four", "five"), ("one", "two"), ("text_1", "text_2"))
    scores = await engine.score(request)

    expected = reference.encode(["four", "five"]) * reference.encode(["one", "two"])
    assert scores.scores == pytest.approx(expected.sum(axis=1).tolist(), abs=1e-5)


async def test_pooling_can_exclude_prompts_of_different_lengths(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    make_encoder(tmp_path, include_prompt=False)
    folder = str(tmp_path / "model")
    engine = SentenceTransformerEngine(folder, OPTIONS)
    reference = SentenceTransformer(folder, device="cpu", local_files_only=True)

    bare, prompted = await asyncio.gather(
        embed(engine, "one two"), embed(engine, "one two", input_type="query")
    )
    engine.shut_down()

    expected = [*reference.encode(["one two"]), *reference.encode(["one two"], prompt="query : ")]
    lowest = lowest_cosine(np.concatenate([bare, prompted]), expected)
    assert lowest == pytest.approx(1, abs=1e-5)


async def test_capabilities_are_the_model_s(engine: SentenceTransformerEngine) -> None:
    assert engine.capabilities == {
        "task": "embed",
        "dimensions": 32,
        "shorter_dimensions": [8],
        "is_normalized": True,
        "max_tokens": MAX_TOKENS,
        "input_types": ["passage", "query"],
    }


async def test_loaded_engine_is_healthy(engine: SentenceTransformerEngine) -> None:
    await engine.check_health()


@pytest.mark.parametrize("filler", ["x" * 20_000, " " * 20_000], ids=["blob", "blanks"])
async def test_long_text_of_few_tokens_is_accepted(
    engine: SentenceTransformerEngine, filler: str
) -> None:
    answer = await engine.embed(EmbeddingRequest("r", (f"a {filler} b",)))

    assert answer.usage.prompt_tokens < MAX_TOKENS
