import pytest

from api.errors import ContextLengthExceededError, InvalidRequestError
from api.ports.embeddings import Truncation
from deployments.engines.embedding.input_limits import (
    check_total,
    clip_chars,
    max_input_tokens,
    split_by_chars,
    to_param,
    too_long,
)

TRUNCATED = Truncation(is_wanted=True)


def test_texts_are_split_into_runs_of_neighbours() -> None:
    runs = split_by_chars([10, 10, 10, 40, 1, 2], 25)

    assert [(each.start, each.stop) for each in runs] == [(0, 2), (2, 3), (3, 4), (4, 6)]


def test_no_texts_are_split_into_no_runs() -> None:
    assert list(split_by_chars([])) == []


def test_text_within_the_limit_is_not_clipped() -> None:
    assert clip_chars("a" * 32_768, 0, 10, Truncation(), "input") == "a" * 32_768


def test_limit_grows_with_the_model_s_tokens() -> None:
    assert len(clip_chars("a" * 70_000, 0, 1000, TRUNCATED, "input")) == 64_000


def test_longer_text_is_clipped_if_truncation_is_wanted() -> None:
    assert len(clip_chars("a" * 32_769, 0, 10, TRUNCATED, "input")) == 32_768


def test_longer_text_is_refused_if_truncation_is_not_wanted() -> None:
    with pytest.raises(ContextLengthExceededError, match="Input 3 has more tokens") as caught:
        clip_chars("a" * 32_769, 3, 10, Truncation(), "input[3]")

    assert caught.value.param == "input[3]"


@pytest.mark.parametrize(
    ("truncation", "expected"),
    [
        (Truncation(), 64),
        (Truncation(max_tokens=10), 64),
        (TRUNCATED, 64),
        (Truncation(is_wanted=True, max_tokens=10), 10),
        (Truncation(is_wanted=True, max_tokens=100), 64),
    ],
)
def test_input_may_have_the_tokens_of_the_model_or_of_the_truncation(
    truncation: Truncation, expected: int
) -> None:
    assert max_input_tokens(truncation, 64) == expected


@pytest.mark.parametrize(("count", "expected"), [(1, "input"), (2, "input[0]")])
def test_param_has_an_index_if_there_are_several_inputs(count: int, expected: str) -> None:
    assert to_param("input", 0, count) == expected


def test_error_of_a_long_input_names_index_count_and_limit() -> None:
    error = too_long(2, 70, 64, "input[2]")

    assert error.message.startswith("Input 2 has 70 tokens, more than this model's maximum of 64;")


@pytest.mark.parametrize("limit", [None, 3, 4])
def test_request_within_its_total_is_accepted(limit: int | None) -> None:
    check_total([[1, 2], [3]], Truncation(max_total_tokens=limit), "input")


def test_request_beyond_its_total_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="have 3 tokens, more than the limit of 2"):
        check_total([[1, 2], [3]], Truncation(max_total_tokens=2), "input")
