"""Embeddings by all-MiniLM-L6-v2, through the official SDK."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest

from deployments.home import find_home
from tests.helpers.service import Service

pytestmark = pytest.mark.e2e

MODEL = "all-minilm-l6-v2"
TEXTS = [
    "A man is playing a guitar.",
    "Someone plays an instrument with strings.",
    "The stock market fell sharply on Tuesday.",
    "short",
    "A much longer text, which makes the others of its batch need padding if they share one.",
]

ONE_TOKEN_TOO_MANY = {"input": [[7] * 148] * 1999 + [[7] * 149]}
"""300,001 tokens, with two special tokens for each input."""


def embed(service: Service, **parameters) -> np.ndarray:
    answer = service.openai().embeddings.create(model=MODEL, **parameters)
    return np.array([row.embedding for row in answer.data])  # (N, 384)


def test_paraphrases_are_closer_than_unrelated_texts(service: Service):
    first, paraphrase, unrelated = embed(service, input=TEXTS[:3])

    assert first @ paraphrase > first @ unrelated + 0.2


def test_vectors_equal_those_of_sentence_transformers(service: Service):
    """Within 1e-3 in cosine: the service computes in bfloat16 where the CPU supports it."""
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(find_home() / "models" / "minilm"), device="cpu")
    expected = reference.encode(TEXTS, normalize_embeddings=True)
    vectors = embed(service, input=TEXTS)

    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert (vectors * expected).sum(axis=1) == pytest.approx(1, abs=1e-3)


def test_text_and_its_token_ids_give_the_same_vector(service: Service):
    client = service.openai()
    by_text = client.embeddings.create(model=MODEL, input="hello world")
    by_ids = client.embeddings.create(model=MODEL, input=[7592, 2088])

    assert by_ids.data[0].embedding == by_text.data[0].embedding
    assert by_ids.usage.prompt_tokens == by_text.usage.prompt_tokens == 4


def test_base64_and_float_embeddings_are_equal(service: Service):
    floats = embed(service, input="hello", encoding_format="float").astype(np.float32)

    assert np.array_equal(floats, embed(service, input="hello").astype(np.float32))


def test_too_long_input_is_rejected_by_its_index(service: Service):
    with pytest.raises(openai.BadRequestError) as failure:
        embed(service, input=["fine", "word " * 2000])

    assert failure.value.code == "context_length_exceeded"
    assert failure.value.param == "input[1]"


def test_vectors_are_the_same_alone_and_batched_with_other_clients(service: Service):
    """Within 1e-3 in cosine."""
    texts = [
        " ".join(["word", str(number), "of a text"] * (1 + number % 40)) for number in range(96)
    ]
    alone = embed(service, input=texts)

    with ThreadPoolExecutor(16) as clients:
        shares = list(clients.map(lambda start: embed(service, input=texts[start::12]), range(12)))

    for start, rows in enumerate(shares):
        assert (rows * alone[start::12]).sum(axis=1) == pytest.approx(1, abs=1e-3)


def test_truncate_cuts_the_input_to_max_tokens_of_the_model(service: Service):
    answer = service.openai().embeddings.create(
        model=MODEL, input="word " * 2000, extra_body={"truncate": True}
    )

    assert answer.usage.prompt_tokens == 256


@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"input": ["a"] * 2049}, "invalid_value", "input"),
        (ONE_TOKEN_TOO_MANY, "invalid_value", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": [""]}, "invalid_value", "input"),
        ({"input": ["a", 1]}, "invalid_value", "input"),
        ({"input": ["a", [7]]}, "invalid_value", "input"),
        ({"input": [10_000_000]}, "invalid_value", "input"),
        ({"input": "a", "dimensions": 0}, "invalid_value", "dimensions"),
        ({"input": "a", "dimensions": -1}, "invalid_value", "dimensions"),
        ({"input": "a", "dimensions": 10**9}, "unsupported_parameter", "dimensions"),
        ({"input": "a", "dimensions": 128}, "unsupported_parameter", "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "invalid_value", "encoding_format"),
        (
            {"input": "a", "extra_body": {"input_type": "query"}},
            "unsupported_parameter",
            "input_type",
        ),
    ],
)
def test_invalid_parameter_is_rejected_by_name(service: Service, parameters, code, param):
    with pytest.raises(openai.BadRequestError) as failure:
        embed(service, **parameters)

    assert (failure.value.code, failure.value.param) == (code, param)


def test_dimensions_equal_to_those_of_the_model_are_accepted(service: Service):
    assert embed(service, input="a", dimensions=384).shape == (1, 384)


def test_model_card_shows_kind_and_limits(service: Service):
    card = service.openai().models.retrieve(MODEL).model_dump()["triptych"]

    assert card == {
        "kind": "embedding",
        "task": "embed",
        "dimensions": 384,
        "shorter_dimensions": [],
        "is_normalized": True,
        "max_tokens": 256,
        "input_types": [],
    }


def test_documents_are_ranked_by_similarity(service: Service):
    body = {"model": MODEL, "query": "music", "documents": TEXTS[:3], "return_documents": True}
    answer = service.openai().post("/rerank", body=body, cast_to=dict[str, Any])

    assert [result["index"] for result in answer["results"]][-1] == 2
    assert answer["results"][0]["document"]["text"] in TEXTS[:2]
    vectors = embed(service, input=["music", *TEXTS[:3]])
    scores = {each["index"]: each["relevance_score"] for each in answer["results"]}
    assert [scores[index] for index in range(3)] == pytest.approx(
        list(vectors[1:] @ vectors[0]), abs=1e-2
    )


def test_score_is_1_for_equal_texts_and_lower_for_unrelated_ones(service: Service):
    body = {"model": MODEL, "text_1": TEXTS[0], "text_2": [TEXTS[0], TEXTS[2]]}
    answer = service.openai().post("/score", body=body, cast_to=dict[str, Any])

    same, other = [each["score"] for each in answer["data"]]
    assert same == pytest.approx(1, abs=1e-3)
    assert other < same - 0.3


def test_text_of_many_megabytes_is_rejected_by_the_model(service: Service):
    """As large as a body may be."""
    with pytest.raises(openai.BadRequestError) as failure:
        embed(service, input=["[ " * 500_000] * 4)

    assert failure.value.code == "context_length_exceeded"
    assert failure.value.param == "input[0]"
