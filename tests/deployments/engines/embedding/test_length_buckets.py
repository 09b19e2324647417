from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from deployments.engines.embedding.length_buckets import LengthBuckets, WaitingSequence

LENGTHS = st.lists(st.integers(1, 600), min_size=1, max_size=60)
BUDGETS = st.integers(600, 5000)
"""At least the longest input, as in the engine."""


def drain(lengths: list[int], max_tokens: int) -> Iterator[list[WaitingSequence]]:
    """All batches, each seeded by the sequence that has waited longest."""
    buckets = LengthBuckets(max_tokens)
    remaining = sorted(buckets.add("owner", [[0] * length for length in lengths]), key=_serial)
    while remaining:
        batch = buckets.pop_bucket(remaining[0])
        yield batch
        taken = {each.serial for each in batch}
        remaining = [each for each in remaining if each.serial not in taken]
    assert len(buckets) == 0


def _serial(each: WaitingSequence) -> int:
    return each.serial


@given(LENGTHS, BUDGETS)
def test_every_sequence_is_in_exactly_one_batch(lengths: list[int], max_tokens: int) -> None:
    batches = list(drain(lengths, max_tokens))

    numbers = [each.number for batch in batches for each in batch]
    assert sorted(numbers) == list(range(len(lengths)))
    assert all(lengths[each.number] == each.length for batch in batches for each in batch)


@given(LENGTHS, BUDGETS)
def test_batch_with_its_padding_is_within_the_budget(lengths: list[int], max_tokens: int) -> None:
    batches = list(drain(lengths, max_tokens))

    assert all(batch[-1].length * len(batch) <= max_tokens for batch in batches)


@given(LENGTHS, BUDGETS)
def test_padding_is_at_most_16_tokens_or_an_eighth(lengths: list[int], max_tokens: int) -> None:
    padding = [batch[-1].length - batch[0].length for batch in drain(lengths, max_tokens)]

    assert all(each <= max(16, max(lengths) // 8) for each in padding)


@given(LENGTHS, BUDGETS)
def test_seed_is_in_its_batch(lengths: list[int], max_tokens: int) -> None:
    buckets = LengthBuckets(max_tokens)
    seed, *_ = buckets.add("owner", [[0] * length for length in lengths])

    assert seed in buckets.pop_bucket(seed)


def test_sequences_of_similar_length_share_a_batch_across_requests() -> None:
    buckets = LengthBuckets(1000)
    buckets.add("a", ["12", "1" * 90])
    buckets.add("b", ["123", "1" * 95])
    (seed,) = buckets.add("c", ["1234"])

    batch = buckets.pop_bucket(seed)

    assert [(each.owner, each.number) for each in batch] == [("a", 0), ("b", 0), ("c", 0)]
    assert len(buckets) == 2


def test_sequences_of_equal_length_keep_their_order() -> None:
    buckets = LengthBuckets(6)
    first, *_ = buckets.add("a", ["123"] * 4)

    assert [each.number for each in buckets.pop_bucket(first)] == [0, 1]


def test_discarded_sequences_are_in_no_batch() -> None:
    buckets = LengthBuckets(100)
    removed = buckets.add("a", ["1", "2"])
    (kept,) = buckets.add("b", ["3"])

    buckets.discard(removed)

    assert buckets.pop_bucket(kept) == [kept]
