from hypothesis import given
from hypothesis import strategies as st

from deployments.ledger.limits.sliding_window import COUNTED_S, WINDOW_S, SlidingWindow


def test_amount_counts_until_its_whole_second_is_older_than_the_window():
    window = SlidingWindow()
    window.add(100, 7)

    assert window.used(100.999) == 7
    assert window.used(100.999 + WINDOW_S) == 7
    assert window.used(101.0 + WINDOW_S) == 0


def test_amounts_of_one_second_share_a_bucket():
    window = SlidingWindow()

    assert window.add(100, 7) == 7
    assert window.add(100, 2) == 9


def test_refund_is_available_at_once():
    window = SlidingWindow()
    window.add(100, 7)
    window.add(130, 5)

    assert window.refund(100, 4) == 3
    assert window.used(130) == 8


def test_old_bucket_cannot_be_refunded():
    window = SlidingWindow()
    window.add(100, 7)
    window.add(170, 5)
    window.used(170)

    assert window.refund(100, 7) == 0
    assert window.used(170) == 5


def test_refund_is_capped_to_the_bucket():
    window = SlidingWindow()
    window.add(100, 7)

    assert window.refund(100, 9) == 0
    assert window.used(100) == 0


def test_wait_lasts_until_enough_buckets_are_old():
    window = SlidingWindow()
    window.add(100, 5)
    window.add(110, 4)
    window.add(120, 1)

    assert window.wait_s(120.5, 5, limit=10) == 100 + COUNTED_S - 120.5
    assert window.wait_s(120.5, 6, limit=10) == 110 + COUNTED_S - 120.5
    assert window.wait_s(120.5, 10, limit=10) == 120 + COUNTED_S - 120.5


def test_amount_that_fits_need_not_wait():
    window = SlidingWindow()
    window.add(100, 5)

    assert window.wait_s(100, 5, limit=10) == 0.0


def test_amount_above_the_limit_never_fits():
    assert SlidingWindow().wait_s(100, 11, limit=10) is None


def test_reset_is_when_the_last_bucket_is_old():
    window = SlidingWindow()
    window.add(100, 5)
    window.add(110, 5)

    assert window.reset_s(110.25) == 110 + COUNTED_S - 110.25
    assert window.reset_s(200) == 0.0


@given(
    steps=st.lists(st.tuples(st.floats(0, 40), st.integers(1, 50)), max_size=60),
    limit=st.integers(1, 100),
)
def test_amount_fits_after_its_wait_and_not_before(steps: list[tuple[float, int]], limit: int):
    window = SlidingWindow()
    now_s = 1000.0
    for pause_s, amount in steps:
        now_s += pause_s
        wait_s = window.wait_s(now_s, amount, limit)
        assert (wait_s is None) == (amount > limit)
        if wait_s is not None:
            early_s = now_s + wait_s - 1e-6
            assert not wait_s or early_s < now_s or window.used(early_s) + amount > limit
            now_s += wait_s + 1e-6
            assert window.used(now_s) + amount <= limit
            window.add(int(now_s), amount)


def test_old_buckets_are_deleted():
    window = SlidingWindow()
    for second in range(1000):
        window.add(second, 1)
        window.used(float(second))

    assert window.used(999.0) == 61
    assert len(window._amounts) == 61  # no public fact: old buckets change nothing
