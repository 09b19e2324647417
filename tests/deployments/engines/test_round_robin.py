from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.engines.round_robin import RoundRobin


def round_robin_of(*members: tuple[str, str]) -> RoundRobin[str]:
    round_robin: RoundRobin[str] = RoundRobin()
    for member, tenant in members:
        round_robin.add(member, "normal", tenant)
    return round_robin


def turns(round_robin: RoundRobin[str], count: int) -> list[str]:
    return [round_robin.next() for _ in range(count)]


def test_members_of_one_tenant_take_turns() -> None:
    assert turns(round_robin_of(("a", "t"), ("b", "t")), 5) == ["a", "b", "a", "b", "a"]


def test_tenants_take_turns_however_many_members_they_have() -> None:
    round_robin = round_robin_of(("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"))

    assert turns(round_robin, 6) == ["a1", "b1", "a2", "b1", "a3", "b1"]


def test_higher_class_goes_first() -> None:
    round_robin = round_robin_of(("normal", "t"))
    round_robin.add("low", "low", "t")
    round_robin.add("high", "high", "t")

    first = turns(round_robin, 2)
    round_robin.discard("high")
    second = turns(round_robin, 1)
    round_robin.discard("normal")

    assert (first, second, turns(round_robin, 1)) == (["high", "high"], ["normal"], ["low"])


def test_discarded_member_has_no_turn() -> None:
    round_robin = round_robin_of(("a", "t"), ("b", "t"), ("c", "u"))

    round_robin.discard("a")
    round_robin.discard("a")
    round_robin.discard("c")

    assert turns(round_robin, 2) == ["b", "b"]
    assert len(round_robin) == 1


def test_next_without_members_raises_stop_iteration() -> None:
    with pytest.raises(StopIteration):
        RoundRobin[str]().next()


def test_heads_are_the_first_members_of_each_tenant_by_class() -> None:
    round_robin = round_robin_of(("a1", "a"), ("a2", "a"), ("b1", "b"))
    round_robin.add("c1", "high", "c")

    assert list(round_robin.heads()) == ["c1", "a1", "b1"]


def test_discarded_head_leaves_its_tenant_in_turn_and_a_rotated_one_does_not() -> None:
    round_robin = round_robin_of(("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a"))

    round_robin.discard("a1")
    after_discard = list(round_robin.heads())
    round_robin.rotate("a2")
    round_robin.discard("a2")

    assert after_discard == ["a2", "b1"]
    assert list(round_robin.heads()) == ["b1", "a3"]


def test_longest_tenant_is_counted_over_classes_and_loses_from_its_lowest() -> None:
    round_robin = round_robin_of(("a1", "a"), ("b1", "b"), ("b2", "b"), ("a2", "a"))
    round_robin.add("a3", "high", "a")

    assert round_robin.last_of_the_longest() == "a2"


def test_empty_round_robin_has_no_longest_tenant() -> None:
    with pytest.raises(ValueError, match="empty"):
        RoundRobin[str]().last_of_the_longest()


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=20))
def test_every_tenant_gets_the_same_number_of_turns(tenants: list[str]) -> None:
    round_robin = round_robin_of(*((str(number), tenant) for number, tenant in enumerate(tenants)))
    names = sorted(set(tenants))

    seen = Counter(tenants[int(each)] for each in turns(round_robin, 4 * len(names)))

    assert seen == dict.fromkeys(names, 4)
