"""A tiny encoder against sentence-transformers' own `encode`."""

import asyncio
import itertools
import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from api.errors import ContextLengthExceededError, InvalidRequestError, UnsupportedParameterError
from api.ports.embeddings import EmbeddingRequest, Embeddings, ScoreRequest, Truncation
from deployments.config.embedding import EncoderOptions
from deployments.engines.embedding import inputs as encoder_inputs
from deployments.engines.embedding.sentence_transformer import EncoderEngine
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
def engine(folder: str) -> Iterator[EncoderEngine]:
    engine = EncoderEngine(folder, OPTIONS)
    yield engine
    engine.shut_down()


@pytest.fixture(scope="module")
def reference(folder: str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, device="cpu", local_files_only=True)


def text_of(words: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


async def embed(
    engine: EncoderEngine, *inputs: str | tuple[int, ...], **members: Any
) -> np.ndarray:
    embeddings = await engine.embed(EmbeddingRequest("r", inputs, **members))
    return to_rows(embeddings)


def to_rows(embeddings: Embeddings) -> np.ndarray:
    rows: np.ndarray = np.frombuffer(embeddings.vectors, "<f4")
    return rows.reshape(-1, embeddings.dimensions)


def to_worst_cosine(rows: np.ndarray, expected: Sequence[Any]) -> float:
    return float((rows * np.array(expected)).sum(axis=1).min())


async def test_vectors_are_sentence_transformers_s(engine: EncoderEngine, reference: Any) -> None:
    texts = [text_of(words, words) for words in (1, 60, 2, 30, 3)]

    rows = await embed(engine, *texts)

    assert to_worst_cosine(rows, reference.encode(texts)) == pytest.approx(1, abs=1e-5)


async def test_vectors_are_the_same_in_any_batch(engine: EncoderEngine, reference: Any) -> None:
    requests = [
        [text_of(1 + (7 * number + 13 * request) % 60, number) for number in range(8)]
        for request in range(12)
    ]

    answers = await asyncio.gather(*(embed(engine, *texts) for texts in requests))

    worst = min(
        to_worst_cosine(rows, reference.encode(texts))
        for rows, texts in zip(answers, requests, strict=True)
    )
    assert worst == pytest.approx(1, abs=1e-5)


async def test_requests_share_batches(
    engine: EncoderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Mock(wraps=engine._batcher._forward)
    monkeypatch.setattr(engine._batcher, "_forward", forward)

    await asyncio.gather(*(embed(engine, "one two") for _ in range(40)))

    assert forward.call_count < 20


async def test_usage_is_exact(engine: EncoderEngine) -> None:
    work = RequestProgress()

    embeddings = await engine.embed(EmbeddingRequest("r", ("one two", (4, 5, 6))), work)

    assert embeddings.usage.prompt_tokens == work.usage.prompt_tokens == 2 + 2 + 3 + 2


async def test_token_ids_are_the_text_they_stand_for(engine: EncoderEngine) -> None:
    ids = tuple(4 + WORDS.index(word) for word in ("one", "two"))

    text, by_ids = await embed(engine, "one two", ids)

    assert np.array_equal(text, by_ids)


async def test_token_id_out_of_the_vocabulary_is_refused(engine: EncoderEngine) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await embed(engine, (10_000,))

    assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("inputs", "param"), [(("one ", 70), "input"), (("one ", 70, "two"), "input[0]")]
)
async def test_too_long_input_is_refused_by_index_and_count(
    engine: EncoderEngine, inputs: Any, param: str
) -> None:
    text, times, *others = inputs
    with pytest.raises(ContextLengthExceededError, match="Input 0 has 72 tokens") as caught:
        await embed(engine, text * times, *others)

    assert caught.value.param == param


@pytest.mark.parametrize("limit", [None, 10])
async def test_input_is_cut_on_demand(
    engine: EncoderEngine, reference: Any, limit: int | None
) -> None:
    text = text_of(100)
    cut = Truncation(is_wanted=True, max_tokens=limit)

    embeddings = await engine.embed(EmbeddingRequest("r", (text,), cut=cut))

    words = (limit or MAX_TOKENS) - 2
    expected = reference.encode([" ".join(text.split()[:words])])
    assert embeddings.usage.prompt_tokens == words + 2
    assert to_worst_cosine(to_rows(embeddings), expected) == pytest.approx(1, abs=1e-5)


async def test_all_inputs_together_have_a_limit(engine: EncoderEngine) -> None:
    cut = Truncation(max_total_tokens=6)

    await embed(engine, "one", "two", cut=cut)
    with pytest.raises(InvalidRequestError, match="7 tokens") as caught:
        await embed(engine, "one", "two two", cut=cut)
    assert caught.value.param == "input"


@pytest.mark.parametrize("input_type", ["query", "passage"])
async def test_input_type_chooses_the_prompt(
    engine: EncoderEngine, reference: Any, input_type: str
) -> None:
    rows = await embed(engine, "one two", input_type=input_type)

    expected = reference.encode(["one two"], prompt=f"{input_type} : ")
    assert to_worst_cosine(rows, expected) == pytest.approx(1, abs=1e-5)


async def test_unknown_input_type_is_refused(engine: EncoderEngine) -> None:
    with pytest.raises(UnsupportedParameterError):
        await embed(engine, "one", input_type="title")


async def test_vectors_are_shortened_and_normalised(engine: EncoderEngine) -> None:
    (whole,) = await embed(engine, "one two")
    (short,) = await embed(engine, "one two", dimensions=8)

    assert short == pytest.approx(whole[:8] / np.linalg.norm(whole[:8]), abs=1e-6)


async def test_other_dimensions_are_refused(engine: EncoderEngine) -> None:
    with pytest.raises(InvalidRequestError, match="one of 8, 32"):
        await embed(engine, "one", dimensions=9)


async def test_score_is_the_cosine_of_query_and_document(
    engine: EncoderEngine, reference: Any
) -> None:
    documents = ("one two", "three")

    request = ScoreRequest("r", ("four",), documents, ("query", "documents"), is_search=True)
    scores = await engine.score(request)

    query = reference.encode(["four"], prompt="query : ")[0]
    expected = reference.encode(list(documents), prompt="passage : ") @ query
    assert scores.scores == pytest.approx(expected.tolist(), abs=1e-5)
    assert scores.usage.prompt_tokens == 5 + 6 + 5


async def test_texts_of_one_kind_are_scored_without_prompts(
    engine: EncoderEngine, reference: Any
) -> None:
    request = ScoreRequest("r", ("four", "five"), ("one", "two"), ("text_1", "text_2"))
    scores = await engine.score(request)

    expected = reference.encode(["four", "five"]) * reference.encode(["one", "two"])
    assert scores.scores == pytest.approx(expected.sum(axis=1).tolist(), abs=1e-5)


async def test_poolings_may_leave_the_prompt_out(tmp_path: Path) -> None:
    """Also where a batch holds prompts of several lengths."""
    from sentence_transformers import SentenceTransformer

    make_encoder(tmp_path, include_prompt=False)
    folder = str(tmp_path / "model")
    engine = EncoderEngine(folder, OPTIONS)
    reference = SentenceTransformer(folder, device="cpu", local_files_only=True)

    bare, prompted = await asyncio.gather(
        embed(engine, "one two"), embed(engine, "one two", input_type="query")
    )
    engine.shut_down()

    expected = [*reference.encode(["one two"]), *reference.encode(["one two"], prompt="query : ")]
    worst = to_worst_cosine(np.concatenate([bare, prompted]), expected)
    assert worst == pytest.approx(1, abs=1e-5)


async def test_card_tells_the_limits(engine: EncoderEngine) -> None:
    assert engine.capabilities == {
        "task": "embed",
        "dimensions": 32,
        "shorter_dimensions": [8],
        "is_normalized": True,
        "max_tokens": MAX_TOKENS,
        "input_types": ["passage", "query"],
    }


async def test_healthy_engine_says_so(engine: EncoderEngine) -> None:
    await engine.check_health()


async def test_text_that_is_far_too_long_is_not_even_cut_into_tokens(
    engine: EncoderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = "[ " * 100_000
    cut = (
        await engine.embed(EmbeddingRequest("r", ("a", huge), cut=Truncation(is_wanted=True)))
    ).usage
    monkeypatch.setattr(engine._reader, "_encode", None)

    with pytest.raises(ContextLengthExceededError, match="Input 0 has more tokens") as caught:
        await embed(engine, huge)

    assert caught.value.param == "input"
    assert MAX_TOKENS < cut.prompt_tokens < 2 * MAX_TOKENS


@pytest.mark.parametrize("filler", ["x" * 20_000, " " * 20_000], ids=["blob", "blanks"])
async def test_text_that_is_long_in_few_tokens_is_taken_whole(
    engine: EncoderEngine, filler: str
) -> None:
    answer = await engine.embed(EmbeddingRequest("r", (f"a {filler} b",)))

    assert answer.usage.prompt_tokens < MAX_TOKENS


async def test_inputs_are_read_in_portions_and_the_same(
    engine: EncoderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [text_of(words, words) for words in (3, 20, 1, 9)]
    whole = await embed(engine, *texts, (3, 4), input_type="query")
    monkeypatch.setattr(encoder_inputs, "_PORTION_CHARS", 30)

    parts = await embed(engine, *texts, (3, 4), input_type="query")

    assert np.allclose(whole, parts, atol=1e-5)


async def test_reading_stops_when_the_client_leaves(
    engine: EncoderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_inputs, "_PORTION_CHARS", 1)
    has_begun, may_go_on = threading.Event(), threading.Event()
    read = engine._reader._encode
    count = itertools.count()

    def slow(texts: list[str]) -> Iterator[list[int]]:
        next(count)
        has_begun.set()
        may_go_on.wait(5)
        return read(texts)

    monkeypatch.setattr(engine._reader, "_encode", slow)
    reading = asyncio.create_task(embed(engine, *["a"] * 100))
    await asyncio.to_thread(has_begun.wait, 5)
    reading.cancel()
    await asyncio.wait({reading})
    may_go_on.set()
    await embed(engine, "a", "b")  # behind it

    assert next(count) <= 1 + 2


def test_portions_are_neighbours_of_so_many_characters() -> None:
    sizes = [100_000, 100_000, 100_000, 400_000, 1, 2]

    assert [(each.start, each.stop) for each in encoder_inputs.to_portions(sizes)] == [
        (0, 2),
        (2, 3),
        (3, 4),
        (4, 6),
    ]
    assert list(encoder_inputs.to_portions([])) == []
