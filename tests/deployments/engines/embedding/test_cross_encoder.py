"""A tiny cross-encoder against sentence-transformers' own `predict`."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.errors import ContextLengthExceededError, InvalidRequestError, WrongModelKindError
from api.ports.embeddings import EmbeddingRequest, ScoreRequest, Truncation
from deployments.config.embedding import EncoderOptions
from deployments.engines.embedding import inputs as encoder_inputs
from deployments.engines.embedding.cross_encoder import CrossEncoderEngine, is_cross_encoder
from tests.helpers import asgi
from tests.helpers.fakes import ENCODER, build_app
from tests.helpers.tiny_encoders import (
    MAX_TOKENS,
    make_cross_encoder,
    make_roberta_cross_encoder,
    make_writer,
)

OPTIONS = EncoderOptions(dtype="float32", device="cpu", max_batch_tokens=200)
QUERY = "one two"
DOCUMENTS = ("three", "four five six " * 8, "two one", "seven " * 48)


IDENTITY = "torch.nn.modules.linear.Identity"


def make_saved(folder: Path) -> None:
    """As sentence-transformers saves its own: with a list of modules, and a prompt of its own."""
    from sentence_transformers import CrossEncoder

    make_roberta_cross_encoder(folder / "bare")
    prompts = {"ask": "query : "}
    model = CrossEncoder(
        str(folder / "bare"), device="cpu", prompts=prompts, default_prompt_name="ask"
    )
    model.save_pretrained(str(folder))


KINDS: dict[str, Callable[[Path], None]] = {
    "BERT": make_cross_encoder,
    "RoBERTa": make_roberta_cross_encoder,
    "without an activation": lambda folder: make_cross_encoder(
        folder, sentence_transformers={"activation_fn": IDENTITY}
    ),
    "without one, as it was said before": lambda folder: make_roberta_cross_encoder(
        folder, sbert_ce_default_activation_function=IDENTITY
    ),
    "saved": make_saved,
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = tmp_path_factory.mktemp("cross-encoder")
    KINDS[request.param](made)
    return str(made)


@pytest.fixture(scope="module")
def engine(folder: str) -> Iterator[CrossEncoderEngine]:
    engine = CrossEncoderEngine(folder, OPTIONS)
    yield engine
    engine.shut_down()


@pytest.fixture(scope="module")
def reference(folder: str) -> Any:
    from sentence_transformers import CrossEncoder

    reference = CrossEncoder(folder, device="cpu", local_files_only=True)
    reference.max_seq_length = MAX_TOKENS  # of itself it takes two more, and breaks
    return reference


def count_tokens(reference: Any, query: str, document: str) -> int:
    prompt = reference.prompts.get(reference.default_prompt_name, "")
    return len(reference.tokenizer(prompt + query, document)["input_ids"])


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


async def test_usage_counts_both_sides_of_each_pair(
    engine: CrossEncoderEngine, reference: Any
) -> None:
    scores = await engine.score(asking("three", "four five"))

    counts = [count_tokens(reference, QUERY, document) for document in ("three", "four five")]
    assert counts[1] == counts[0] + 1
    assert scores.usage.prompt_tokens == sum(counts)


async def test_too_long_pair_is_refused_by_index(
    engine: CrossEncoderEngine, reference: Any
) -> None:
    words = MAX_TOKENS - count_tokens(reference, QUERY, "four") + 1

    await engine.score(asking("three", "four " * words))
    with pytest.raises(
        ContextLengthExceededError, match=f"Input 1 has {MAX_TOKENS + 1} tokens"
    ) as caught:
        await engine.score(asking("three", "four " * (words + 1)))

    assert caught.value.param == "documents[1]"


async def test_pair_is_cut_on_demand_as_sentence_transformers_cuts(
    engine: CrossEncoderEngine, reference: Any
) -> None:
    document = "four five " * 50

    scores = await engine.score(asking(document, cut=Truncation(is_wanted=True)))

    assert scores.scores == pytest.approx([reference.predict((QUERY, document))], abs=1e-5)
    assert scores.usage.prompt_tokens == MAX_TOKENS


async def test_all_pairs_together_have_a_limit(engine: CrossEncoderEngine) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await engine.score(asking("three", "four", cut=Truncation(max_total_tokens=11)))

    assert caught.value.param == "documents"


async def ask(engine: CrossEncoderEngine, url: str, **members: Any) -> asgi.Response:
    app = build_app(encoder=engine)
    return await asgi.request(app, "POST", url, json_body={"model": ENCODER, **members})


@pytest.mark.parametrize("top_n", [1, 3, None])
async def test_documents_come_in_sentence_transformers_s_order(
    engine: CrossEncoderEngine, reference: Any, top_n: int | None
) -> None:
    response = await ask(
        engine,
        "/v1/rerank",
        query=QUERY,
        documents=DOCUMENTS,
        top_n=top_n,
        return_documents=True,
        truncate=True,
    )

    expected = reference.rank(QUERY, list(DOCUMENTS), top_k=top_n, return_documents=True)
    assert len(expected) == (top_n or len(DOCUMENTS))
    assert [(each["index"], each["document"]["text"]) for each in response.json()["results"]] == [
        (each["corpus_id"], each["text"]) for each in expected
    ]
    assert [each["relevance_score"] for each in response.json()["results"]] == pytest.approx(
        [float(each["score"]) for each in expected], abs=1e-5
    )


async def test_scores_come_in_the_order_of_the_texts(
    engine: CrossEncoderEngine, reference: Any
) -> None:
    response = await ask(engine, "/v1/score", text_1=QUERY, text_2=["three", "two one", "ten"])

    expected = reference.predict([(QUERY, each) for each in ("three", "two one", "ten")])
    assert [each["score"] for each in response.json()["data"]] == pytest.approx(
        expected.tolist(), abs=1e-5
    )


async def test_too_long_document_is_refused_over_http(engine: CrossEncoderEngine) -> None:
    response = await ask(engine, "/v1/rerank", query=QUERY, documents=["three", "four " * 99])

    assert response.error() == (400, "context_length_exceeded", "documents[1]")


async def test_it_has_no_vectors(engine: CrossEncoderEngine) -> None:
    with pytest.raises(WrongModelKindError):
        await engine.embed(EmbeddingRequest("r", ("a",)))


async def test_card_tells_the_limits(engine: CrossEncoderEngine) -> None:
    assert engine.capabilities == {"task": "rerank", "max_tokens": MAX_TOKENS}


async def test_healthy_engine_says_so(engine: CrossEncoderEngine) -> None:
    await engine.check_health()


def test_model_that_tells_classes_apart_has_no_score(tmp_path: Path) -> None:
    make_cross_encoder(tmp_path, labels=3)

    with pytest.raises(ValueError, match="3 classes"):
        CrossEncoderEngine(str(tmp_path), OPTIONS)


def test_model_that_writes_its_judgement_is_refused(tmp_path: Path) -> None:
    """Its chat template would be left out, and its scores would mean nothing."""
    make_writer(tmp_path)

    with pytest.raises(ValueError, match="writes its judgement"):
        CrossEncoderEngine(str(tmp_path), EncoderOptions(task="rerank", device="cpu"))


def test_prompt_of_no_name_is_refused(tmp_path: Path) -> None:
    make_cross_encoder(tmp_path)

    with pytest.raises(KeyError):
        CrossEncoderEngine(str(tmp_path), OPTIONS.model_copy(update={"prompt_name": "nobody"}))


async def test_configured_prompt_goes_before_the_query(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    make_cross_encoder(tmp_path)
    changes = {"prompt_name": "ask", "prompts": {"ask": "query : "}}
    engine = CrossEncoderEngine(str(tmp_path), OPTIONS.model_copy(update=changes))

    scores = await engine.score(asking("three"))
    engine.shut_down()

    reference = CrossEncoder(str(tmp_path), device="cpu")
    expected = reference.predict([(QUERY, "three")], prompt="query : ")
    assert scores.scores == pytest.approx(expected.tolist(), abs=1e-5)


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


@pytest.mark.parametrize("max_tokens", [1, 2, 3])
async def test_pair_is_cut_to_nothing_where_no_more_is_wanted(
    engine: CrossEncoderEngine, max_tokens: int
) -> None:
    cut = Truncation(is_wanted=True, max_tokens=max_tokens)

    scores = await engine.score(asking("three " * 100, cut=cut))

    assert scores.usage.prompt_tokens <= 4


async def test_what_is_far_too_long_is_not_even_cut_into_tokens(
    engine: CrossEncoderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._reader, "_encode", None)

    with pytest.raises(ContextLengthExceededError, match="Input 1 has more tokens") as caught:
        await engine.score(asking("three", "a" * 100_000))

    assert caught.value.param == "documents[1]"


async def test_many_pairs_are_read_in_portions_and_no_further_than_they_may_go(
    engine: CrossEncoderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_inputs, "_PORTION_CHARS", 20)
    read = engine._reader._encode
    portions: list[int] = []

    def note(queries: list[str], documents: list[str], cut: Truncation) -> list[Any]:
        portions.append(len(documents))
        return read(queries, documents, cut)

    monkeypatch.setattr(engine._reader, "_encode", note)
    whole = await engine.score(asking("three", "four", "two one"))
    with pytest.raises(InvalidRequestError):
        await engine.score(asking(*["three"] * 50, cut=Truncation(max_total_tokens=11)))

    assert len(whole.scores) == 3
    assert set(portions) == {1}
    assert 3 < len(portions) <= 6


async def test_healthy_engine_does_not_touch_the_tokenizer(
    engine: CrossEncoderEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is set up for the request that a thread reads at this moment."""
    monkeypatch.setattr(engine._reader, "_encode", None)

    await engine.check_health()
