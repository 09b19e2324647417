from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from deployments.engines.embedding.length_buckets import Waiting, WaitingSequence

LENGTHS = st.lists(st.integers(1, 600), min_size=1, max_size=60)
BUDGETS = st.integers(600, 5000)
"""Never below the longest input: the engine sees to that."""


def drain(lengths: list[int], max_tokens: int) -> Iterator[list[WaitingSequence]]:
    """All batches, each around the sequence that has waited longest."""
    waiting = Waiting(max_tokens)
    left = sorted(waiting.add("owner", [[0] * length for length in lengths]), key=_serial)
    while left:
        batch = waiting.take_around(left[0])
        yield batch
        taken = {each.serial for each in batch}
        left = [each for each in left if each.serial not in taken]
    assert len(waiting) == 0


def _serial(each: WaitingSequence) -> int:
    return each.serial


@given(LENGTHS, BUDGETS)
def test_every_sequence_is_in_one_batch(lengths: list[int], max_tokens: int) -> None:
    batches = list(drain(lengths, max_tokens))

    numbers = [each.number for batch in batches for each in batch]
    assert sorted(numbers) == list(range(len(lengths)))
    assert all(lengths[each.number] == each.length for batch in batches for each in batch)


@given(LENGTHS, BUDGETS)
def test_no_batch_is_over_the_budget_padding_included(lengths: list[int], max_tokens: int) -> None:
    batches = list(drain(lengths, max_tokens))

    assert all(batch[-1].length * len(batch) <= max_tokens for batch in batches)


@given(LENGTHS, BUDGETS)
def test_nobody_is_padded_to_a_stranger_s_length(lengths: list[int], max_tokens: int) -> None:
    padding = [batch[-1].length - batch[0].length for batch in drain(lengths, max_tokens)]

    assert all(each <= max(16, max(lengths) // 8) for each in padding)


@given(LENGTHS, BUDGETS)
def test_the_one_whose_turn_it_is_is_in_its_batch(lengths: list[int], max_tokens: int) -> None:
    waiting = Waiting(max_tokens)
    anchor, *_ = waiting.add("owner", [[0] * length for length in lengths])

    assert anchor in waiting.take_around(anchor)


def test_neighbours_of_all_requests_share_a_batch() -> None:
    waiting = Waiting(1000)
    waiting.add("a", ["12", "1" * 90])
    waiting.add("b", ["123", "1" * 95])
    (anchor,) = waiting.add("c", ["1234"])

    batch = waiting.take_around(anchor)

    assert [(each.owner, each.number) for each in batch] == [("a", 0), ("b", 0), ("c", 0)]
    assert len(waiting) == 2


def test_equal_lengths_keep_their_order() -> None:
    waiting = Waiting(6)
    first, *_ = waiting.add("a", ["123"] * 4)

    assert [each.number for each in waiting.take_around(first)] == [0, 1]


def test_what_is_discarded_is_in_no_batch() -> None:
    waiting = Waiting(100)
    gone = waiting.add("a", ["1", "2"])
    (kept,) = waiting.add("b", ["3"])

    waiting.discard(gone)

    assert waiting.take_around(kept) == [kept]
