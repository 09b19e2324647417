"""Readers with a tokenizer of words whose calls are counted."""

from pathlib import Path
from typing import Any

import pytest

from api.errors import ContextLengthExceededError, InvalidRequestError
from api.ports.embeddings import EmbeddingRequest, ScoreRequest, Truncation
from deployments.engines.embedding.inputs import InputReader, PairReader
from deployments.engines.embedding.prompts import Prompts
from tests.helpers.tiny_encoders import MAX_TOKENS, CountingTokenizer, make_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> CountingTokenizer:
    return CountingTokenizer(make_tokenizer(tmp_path))


def input_reader(tokenizer: Any, **options: int) -> InputReader:
    prompts = Prompts({"query": "query : ", "passage": "passage : "}, {}, None)
    return InputReader(tokenizer, MAX_TOKENS, prompts, **options)


def embedding_request(*inputs: str | tuple[int, ...], **members: Any) -> EmbeddingRequest:
    return EmbeddingRequest("r", inputs, **members)


def score_request(*documents: str, **members: Any) -> ScoreRequest:
    return ScoreRequest("r", ("one",), documents, ("query", "documents"), **members)


def test_text_beyond_all_limits_is_refused_without_tokenizing(
    tokenizer: CountingTokenizer,
) -> None:
    reader = input_reader(tokenizer)
    tokenizer.batches.clear()

    with pytest.raises(ContextLengthExceededError, match="Input 0 has more tokens") as caught:
        reader.read(embedding_request("[ " * 100_000))

    assert caught.value.param == "input"
    assert tokenizer.batches == []


def test_text_beyond_all_limits_is_truncated_if_wanted(tokenizer: CountingTokenizer) -> None:
    request = embedding_request("[ " * 100_000, truncation=Truncation(is_wanted=True))

    (sequence,) = input_reader(tokenizer).read(request)

    assert len(sequence) == MAX_TOKENS


def test_inputs_are_tokenized_in_portions_with_the_same_result(
    tokenizer: CountingTokenizer,
) -> None:
    request = embedding_request("one two", "three", (5, 6), "four " * 9, input_type="query")
    whole = input_reader(tokenizer).read(request)
    reader = input_reader(tokenizer, portion_chars=10)
    tokenizer.batches.clear()

    portions = reader.read(request)

    assert portions == whole
    assert len(tokenizer.batches) > 2


def test_reading_stops_when_check_raises(tokenizer: CountingTokenizer) -> None:
    reader = input_reader(tokenizer, portion_chars=1)
    tokenizer.batches.clear()
    checks = iter([None, None])

    with pytest.raises(StopIteration):
        reader.read(embedding_request(*["a"] * 100), lambda: next(checks))

    assert len(tokenizer.batches) == 2


def test_reading_stops_at_the_request_s_total(tokenizer: CountingTokenizer) -> None:
    reader = input_reader(tokenizer, portion_chars=1)
    request = embedding_request(*["a"] * 100, truncation=Truncation(max_total_tokens=5))
    tokenizer.batches.clear()

    with pytest.raises(InvalidRequestError):
        reader.read(request)

    assert len(tokenizer.batches) == 2


def test_smallest_pair_needs_no_tokenizing(tokenizer: CountingTokenizer) -> None:
    """A health check must not use the tokenizer, which a thread may be using."""
    reader = PairReader(tokenizer, MAX_TOKENS)  # type: ignore[arg-type]
    tokenizer.batches.clear()

    smallest = reader.smallest

    assert len(smallest) == 5
    assert tokenizer.batches == []


def test_pair_beyond_all_limits_is_refused_without_tokenizing(
    tokenizer: CountingTokenizer,
) -> None:
    reader = PairReader(tokenizer, MAX_TOKENS)  # type: ignore[arg-type]
    tokenizer.batches.clear()

    with pytest.raises(ContextLengthExceededError, match="Input 1 has more tokens") as caught:
        reader.read(score_request("three", "a" * 100_000))

    assert caught.value.param == "documents[1]"
    assert tokenizer.batches == []


def test_pairs_are_tokenized_in_portions_with_the_same_result(
    tokenizer: CountingTokenizer,
) -> None:
    request = score_request("three", "four", "two one")
    whole = PairReader(tokenizer, MAX_TOKENS).read(request)  # type: ignore[arg-type]
    reader = PairReader(tokenizer, MAX_TOKENS, portion_chars=1)  # type: ignore[arg-type]
    tokenizer.batches.clear()

    portions = reader.read(request)

    assert portions == whole
    assert [len(each) for each in tokenizer.batches] == [1, 1, 1]


def test_reading_pairs_stops_at_the_request_s_total(tokenizer: CountingTokenizer) -> None:
    reader = PairReader(tokenizer, MAX_TOKENS, portion_chars=1)  # type: ignore[arg-type]
    request = score_request(*["three"] * 50, truncation=Truncation(max_total_tokens=11))
    tokenizer.batches.clear()

    with pytest.raises(InvalidRequestError):
        reader.read(request)

    assert len(tokenizer.batches) == 3


def test_both_sides_of_a_search_have_their_prompts(tokenizer: CountingTokenizer) -> None:
    sequences = input_reader(tokenizer).read_sides(score_request("two", is_search=True))

    assert [each.prompt_tokens for each in sequences] == [3, 3]


def test_sides_of_one_kind_have_no_prompts(tokenizer: CountingTokenizer) -> None:
    sequences = input_reader(tokenizer).read_sides(score_request("two"))

    assert [each.prompt_tokens for each in sequences] == [0, 0]
