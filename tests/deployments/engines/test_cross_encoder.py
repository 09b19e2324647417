"""A tiny cross-encoder against sentence-transformers' own `predict`."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.backends import Cut, EmbeddingRequest, ScoreRequest
from api.errors import ContextLengthExceeded, InvalidRequest, WrongModelKind
from deployments.config import EncoderOptions
from deployments.engines.cross_encoder import CrossEncoderEngine, is_cross_encoder
from tests.deployments.engines.tiny_encoders import MAX_TOKENS, make_cross_encoder

OPTIONS = EncoderOptions(dtype="float32", device="cpu", max_batch_tokens=200)
QUERY = "one two"
DOCUMENTS = ("three", "four five six " * 8, "two one", "seven " * 50)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("cross-encoder")
    make_cross_encoder(made)
    return str(made)


@pytest.fixture(scope="module")
def engine(folder: str) -> Iterator[CrossEncoderEngine]:
    engine = CrossEncoderEngine(folder, OPTIONS)
    yield engine
    engine.shut_down()


@pytest.fixture(scope="module")
def reference(folder: str) -> Any:
    from sentence_transformers import CrossEncoder

    return CrossEncoder(folder, device="cpu", local_files_only=True)


def asking(*documents: str, queries: tuple[str, ...] = (QUERY,), **members: Any) -> ScoreRequest:
    return ScoreRequest("r", queries, documents, ("query", "documents"), **members)


async def test_scores_are_sentence_transformers_s(
    engine: CrossEncoderEngine, reference: Any
) -> None:
    scores = await engine.score(asking(*DOCUMENTS))

    expected = reference.predict([(QUERY, document) for document in DOCUMENTS])
    assert scores.scores == pytest.approx(expected.tolist(), abs=1e-5)


async def test_scores_are_the_same_in_any_batch(engine: CrossEncoderEngine, reference: Any) -> None:
    queries = ["one", "two three", "four " * 9]

    answers = await asyncio.gather(
        *(engine.score(asking(*DOCUMENTS, queries=(query,))) for query in queries)
    )

    expected = [[reference.predict((query, each)) for each in DOCUMENTS] for query in queries]
    assert [answer.scores for answer in answers] == [
        pytest.approx(each, abs=1e-5) for each in expected
    ]


async def test_as_many_queries_are_scored_one_each(
    engine: CrossEncoderEngine, reference: Any
) -> None:
    scores = await engine.score(asking("three", "four", queries=("one", "two")))

    expected = reference.predict([("one", "three"), ("two", "four")])
    assert scores.scores == pytest.approx(expected.tolist(), abs=1e-5)


async def test_usage_counts_both_sides_of_each_pair(engine: CrossEncoderEngine) -> None:
    scores = await engine.score(asking("three", "four five"))

    assert scores.usage.prompt_tokens == (2 + 1 + 3) + (2 + 2 + 3)


async def test_too_long_pair_is_refused_by_index(engine: CrossEncoderEngine) -> None:
    with pytest.raises(ContextLengthExceeded, match="Input 1 has 75 tokens") as caught:
        await engine.score(asking("three", "four " * 70))

    assert caught.value.param == "documents[1]"


async def test_pair_is_cut_on_demand_as_sentence_transformers_cuts(
    engine: CrossEncoderEngine, reference: Any
) -> None:
    document = "four five " * 50

    scores = await engine.score(asking(document, cut=Cut(is_wanted=True)))

    assert scores.scores == pytest.approx([reference.predict((QUERY, document))], abs=1e-5)
    assert scores.usage.prompt_tokens == MAX_TOKENS


async def test_all_pairs_together_have_a_limit(engine: CrossEncoderEngine) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await engine.score(asking("three", "four", cut=Cut(max_total_tokens=11)))

    assert caught.value.param == "documents"


async def test_it_has_no_vectors(engine: CrossEncoderEngine) -> None:
    with pytest.raises(WrongModelKind):
        await engine.embed(EmbeddingRequest("r", ("a",)))


async def test_card_tells_the_limits(engine: CrossEncoderEngine) -> None:
    assert engine.details == {"task": "rerank", "max_tokens": MAX_TOKENS}


async def test_healthy_engine_says_so(engine: CrossEncoderEngine) -> None:
    await engine.check_health()


def test_model_that_tells_classes_apart_has_no_score(tmp_path: Path) -> None:
    make_cross_encoder(tmp_path, labels=3)

    with pytest.raises(ValueError, match="3 classes"):
        CrossEncoderEngine(str(tmp_path), OPTIONS)


@pytest.mark.parametrize(
    ("config", "task", "is_one"),
    [
        ('{"architectures": ["BertForSequenceClassification"]}', "auto", True),
        ('{"architectures": ["BertForSequenceClassification"]}', "embed", False),
        ('{"architectures": ["BertModel"]}', "auto", False),
        ('{"architectures": ["BertModel"]}', "rerank", True),
        ("{}", "auto", False),
    ],
)
def test_what_a_cross_encoder_is(tmp_path: Path, config: str, task: Any, is_one: bool) -> None:
    (tmp_path / "config.json").write_text(config)

    assert is_cross_encoder(str(tmp_path), EncoderOptions(task=task)) == is_one
