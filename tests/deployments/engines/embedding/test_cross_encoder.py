"""A tiny cross-encoder, compared with sentence-transformers' own `predict`."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from api.errors import ContextLengthExceededError, InvalidRequestError, WrongModelKindError
from api.ports.embeddings import EmbeddingRequest, ScoreRequest, Truncation
from deployments.config.embedding import EncoderOptions
from deployments.engines.embedding.cross_encoder import CrossEncoderEngine, is_cross_encoder
from tests.helpers import asgi
from tests.helpers.fakes import ENCODER, build_app
from tests.helpers.tiny_encoders import (
    MAX_TOKENS,
    make_cross_encoder,
    make_generative_reranker,
    make_roberta_cross_encoder,
)

OPTIONS = EncoderOptions(dtype="float32", device="cpu", max_batch_tokens=200)
QUERY = "one two"
DOCUMENTS = ("three", "four five six " * 8, "two one", "seven " * 48)


IDENTITY = "torch.nn.modules.linear.Identity"


def make_saved(folder: Path) -> None:
    """A model in the format of sentence-transformers: a list of modules, and a prompt."""
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
    "without an activation, in the old spelling": lambda folder: make_roberta_cross_encoder(
        folder, sbert_ce_default_activation_function=IDENTITY
    ),
    "sentence-transformers": make_saved,
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
    reference.max_seq_length = MAX_TOKENS  # by default two more, which breaks it
    return reference


def count_tokens(reference: Any, query: str, document: str) -> int:
    prompt = reference.prompts.get(reference.default_prompt_name, "")
    return len(reference.tokenizer(prompt + query, document)["input_ids"])


def score_request(
    *documents: str, queries: tuple[str, ...] = (QUERY,), **members: Any
) -> ScoreRequest:
    return ScoreRequest("r", queries, documents, ("query", "documents"), **members)


async def test_scores_are_sentence_transformers_s(
    engine: CrossEncoderEngine, reference: Any
) -> None:
    scores = await engine.score(score_request(*DOCUMENTS))

    expected = reference.predict([(QUERY, document) for document in DOCUMENTS])
    assert scores.scores == pytest.approx(expected.tolist(), abs=1e-5)


async def test_scores_do_not_depend_on_the_batch(
    engine: CrossEncoderEngine, reference: Any
) -> None:
    queries = ["one", "two three", "four " * 9]

    answers = await asyncio.gather(
        *(engine.score(score_request(*DOCUMENTS, queries=(query,))) for query in queries)
    )

    expected = [[reference.predict((query, each)) for each in DOCUMENTS] for query in queries]
    assert [answer.scores for answer in answers] == [
        pytest.approx(each, abs=1e-5) for each in expected
    ]


async def test_several_queries_are_scored_with_one_document_each(
    engine: CrossEncoderEngine, reference: Any
) -> None:
    scores = await engine.score(score_request("three", "four", queries=("one", "two")))

    expected = reference.predict([("one", "three"), ("two", "four")])
    assert scores.scores == pytest.approx(expected.tolist(), abs=1e-5)


async def test_usage_counts_both_sides_of_each_pair(
    engine: CrossEncoderEngine, reference: Any
) -> None:
    scores = await engine.score(score_request("three", "four five"))

    counts = [count_tokens(reference, QUERY, document) for document in ("three", "four five")]
    assert counts[1] == counts[0] + 1
    assert scores.usage.prompt_tokens == sum(counts)


async def test_too_long_pair_is_refused_by_index(
    engine: CrossEncoderEngine, reference: Any
) -> None:
    words = MAX_TOKENS - count_tokens(reference, QUERY, "four") + 1

    await engine.score(score_request("three", "four " * words))
    with pytest.raises(
        ContextLengthExceededError, match=f"Input 1 has {MAX_TOKENS + 1} tokens"
    ) as caught:
        await engine.score(score_request("three", "four " * (words + 1)))

    assert caught.value.param == "documents[1]"


async def test_pair_is_truncated_as_by_sentence_transformers(
    engine: CrossEncoderEngine, reference: Any
) -> None:
    document = "four five " * 50

    scores = await engine.score(score_request(document, truncation=Truncation(is_wanted=True)))

    assert scores.scores == pytest.approx([reference.predict((QUERY, document))], abs=1e-5)
    assert scores.usage.prompt_tokens == MAX_TOKENS


async def test_pairs_beyond_the_request_s_total_are_refused(engine: CrossEncoderEngine) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await engine.score(
            score_request("three", "four", truncation=Truncation(max_total_tokens=11))
        )

    assert caught.value.param == "documents"


async def ask(engine: CrossEncoderEngine, url: str, **members: Any) -> asgi.Response:
    app = build_app(encoder=engine)
    return await asgi.request(app, "POST", url, json_body={"model": ENCODER, **members})


@pytest.mark.parametrize("top_n", [1, 3, None])
async def test_documents_are_ranked_as_by_sentence_transformers(
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


async def test_scores_are_in_the_order_of_the_texts(
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


async def test_cross_encoder_has_no_vectors(engine: CrossEncoderEngine) -> None:
    with pytest.raises(WrongModelKindError):
        await engine.embed(EmbeddingRequest("r", ("a",)))


async def test_capabilities_are_the_model_s(engine: CrossEncoderEngine) -> None:
    assert engine.capabilities == {"task": "rerank", "max_tokens": MAX_TOKENS}


async def test_loaded_engine_is_healthy(engine: CrossEncoderEngine) -> None:
    await engine.check_health()


def test_classifier_of_several_classes_is_refused(tmp_path: Path) -> None:
    make_cross_encoder(tmp_path, labels=3)

    with pytest.raises(ValueError, match="3 classes"):
        CrossEncoderEngine(str(tmp_path), OPTIONS)


def test_generative_reranker_is_refused(tmp_path: Path) -> None:
    """Without its chat template the scores would be meaningless."""
    make_generative_reranker(tmp_path)

    with pytest.raises(ValueError, match="generates its verdict"):
        CrossEncoderEngine(str(tmp_path), EncoderOptions(task="rerank", device="cpu"))


def test_unknown_prompt_name_is_refused(tmp_path: Path) -> None:
    make_cross_encoder(tmp_path)

    with pytest.raises(KeyError):
        CrossEncoderEngine(str(tmp_path), OPTIONS.model_copy(update={"prompt_name": "unknown"}))


async def test_configured_prompt_precedes_the_query(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    make_cross_encoder(tmp_path)
    changes = {"prompt_name": "ask", "prompts": {"ask": "query : "}}
    engine = CrossEncoderEngine(str(tmp_path), OPTIONS.model_copy(update=changes))

    scores = await engine.score(score_request("three"))
    engine.shut_down()

    reference = CrossEncoder(str(tmp_path), device="cpu")
    expected = reference.predict([(QUERY, "three")], prompt="query : ")
    assert scores.scores == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("config", "task", "expected"),
    [
        ('{"architectures": ["BertForSequenceClassification"]}', "auto", True),
        ('{"architectures": ["BertForSequenceClassification"]}', "embed", False),
        ('{"architectures": ["BertModel"]}', "auto", False),
        ('{"architectures": ["BertModel"]}', "rerank", True),
        ("{}", "auto", False),
    ],
)
def test_cross_encoder_is_recognized_by_task_or_architecture(
    tmp_path: Path, config: str, task: Any, expected: bool
) -> None:
    (tmp_path / "config.json").write_text(config)

    assert is_cross_encoder(str(tmp_path), EncoderOptions(task=task)) == expected


@pytest.mark.parametrize("max_tokens", [1, 2, 3])
async def test_pair_is_truncated_to_its_special_tokens(
    engine: CrossEncoderEngine, max_tokens: int
) -> None:
    truncation = Truncation(is_wanted=True, max_tokens=max_tokens)

    scores = await engine.score(score_request("three " * 100, truncation=truncation))

    assert scores.usage.prompt_tokens <= 4
