"""Embeddings by all-MiniLM-L6-v2, through the official SDK."""

import numpy as np
import openai
import pytest

from deployments.config import find_home
from tests.service import Service

pytestmark = pytest.mark.e2e

MODEL = "all-minilm-l6-v2"
TEXTS = [
    "A man is playing a guitar.",
    "Someone plays an instrument with strings.",
    "The stock market fell sharply on Tuesday.",
    "short",
    "A much longer text, which makes the others of its batch need padding if they share one.",
]


def embed(service: Service, **parameters) -> np.ndarray:
    answer = service.openai().embeddings.create(model=MODEL, **parameters)
    return np.array([row.embedding for row in answer.data])  # (N, 384)


def test_paraphrases_are_closer_than_strangers(service: Service):
    first, paraphrase, stranger = embed(service, input=TEXTS[:3])

    assert first @ paraphrase > first @ stranger + 0.2


def test_vectors_equal_those_of_sentence_transformers(service: Service):
    """Within 1e-3 in cosine: the service computes in bfloat16 where the CPU does."""
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


def test_base64_and_floats_are_the_same_numbers(service: Service):
    floats = embed(service, input="hello", encoding_format="float").astype(np.float32)

    assert np.array_equal(floats, embed(service, input="hello").astype(np.float32))


def test_an_input_that_is_too_long_is_refused_by_number(service: Service):
    with pytest.raises(openai.BadRequestError) as failure:
        embed(service, input=["fine", "word " * 2000])

    assert failure.value.code == "context_length_exceeded"
    assert failure.value.param == "input[1]"
