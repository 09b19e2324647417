from hypothesis import given
from hypothesis import strategies as st

from deployments.engines.encoder_engine import to_batches

LENGTHS = st.lists(st.integers(1, 600), max_size=60)
BUDGETS = st.integers(600, 5000)
"""Never below the longest input: the engine sees to that."""


@given(LENGTHS, BUDGETS)
def test_every_input_is_in_one_batch(lengths: list[int], max_tokens: int) -> None:
    batches = list(to_batches(lengths, max_tokens))

    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert [] not in batches


@given(LENGTHS, BUDGETS)
def test_no_batch_is_over_the_budget_padding_included(lengths: list[int], max_tokens: int) -> None:
    batches = list(to_batches(lengths, max_tokens))

    assert all(max(lengths[i] for i in batch) * len(batch) <= max_tokens for batch in batches)


@given(LENGTHS, BUDGETS)
def test_inputs_of_similar_length_are_together(lengths: list[int], max_tokens: int) -> None:
    in_order = [lengths[index] for batch in to_batches(lengths, max_tokens) for index in batch]

    assert in_order == sorted(lengths, reverse=True)


@given(LENGTHS, BUDGETS)
def test_batches_are_full(lengths: list[int], max_tokens: int) -> None:
    """The first input of a batch would not have fitted the one before."""
    batches = list(to_batches(lengths, max_tokens))

    widths = [lengths[batch[0]] for batch in batches]
    assert all(
        width * (len(batch) + 1) > max_tokens
        for width, batch in zip(widths[:-1], batches[:-1], strict=True)
    )


def test_input_longer_than_the_budget_goes_alone() -> None:
    assert list(to_batches([5, 20, 5], 10)) == [[1], [0, 2]]


def test_equal_lengths_keep_their_order() -> None:
    assert list(to_batches([3, 3, 3, 3], 6)) == [[0, 1], [2, 3]]
