from scripts.benchmark.hostile.comparison import Outcome, to_table


def test_the_table_puts_the_stacks_beside_each_other_for_each_attack() -> None:
    outcomes = [
        Outcome(stack, attack, "400", 1.25, 20.4, 30.6, 1.2, 0)
        for stack in ("before", "triptych")
        for attack in ("a", "b")
    ]

    rows = [line.split(" | ")[:2] for line in to_table(outcomes).splitlines()[2:]]

    assert rows == [["| a", "before"], ["| a", "triptych"], ["| b", "before"], ["| b", "triptych"]]
