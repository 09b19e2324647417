from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from deployments.engines.embedding.round_robin import Rotation


def rotation_of(*members: tuple[str, str]) -> Rotation[str]:
    rotation: Rotation[str] = Rotation()
    for member, tenant in members:
        rotation.add(member, "normal", tenant)
    return rotation


def turns(rotation: Rotation[str], count: int) -> list[str]:
    return [rotation.next() for _ in range(count)]


def test_members_of_one_tenant_take_turns() -> None:
    assert turns(rotation_of(("a", "t"), ("b", "t")), 5) == ["a", "b", "a", "b", "a"]


def test_tenants_take_turns_however_many_members_they_have() -> None:
    rotation = rotation_of(("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b"))

    assert turns(rotation, 6) == ["a1", "b1", "a2", "b1", "a3", "b1"]


def test_higher_class_comes_first() -> None:
    rotation = rotation_of(("normal", "t"))
    rotation.add("low", "low", "t")
    rotation.add("high", "high", "t")

    first = turns(rotation, 2)
    rotation.discard("high")
    second = turns(rotation, 1)
    rotation.discard("normal")

    assert (first, second, turns(rotation, 1)) == (["high", "high"], ["normal"], ["low"])


def test_who_is_out_has_no_turn() -> None:
    rotation = rotation_of(("a", "t"), ("b", "t"), ("c", "u"))

    rotation.discard("a")
    rotation.discard("a")
    rotation.discard("c")

    assert turns(rotation, 2) == ["b", "b"]
    assert len(rotation) == 1


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=20))
def test_every_tenant_gets_the_same_number_of_turns(tenants: list[str]) -> None:
    rotation = rotation_of(*((str(number), tenant) for number, tenant in enumerate(tenants)))
    names = sorted(set(tenants))

    seen = Counter(tenants[int(each)] for each in turns(rotation, 4 * len(names)))

    assert seen == dict.fromkeys(names, 4)
