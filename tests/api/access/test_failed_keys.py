import pytest

from api.access.failed_keys import CLIENT_ADDRESS_HEADER, FailedKeys, find_client_address


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_address_waits_after_too_many_failures_until_the_minute_is_over(clock: Clock) -> None:
    failed = FailedKeys(2, clock=clock)

    first = [failed.count("1.1.1.1") for _ in range(2)]
    clock.now_s += 15
    third = failed.count("1.1.1.1")
    clock.now_s += 45
    later = failed.count("1.1.1.1")

    assert (first, third, later) == ([None, None], 45.0, None)


def test_addresses_are_counted_apart(clock: Clock) -> None:
    failed = FailedKeys(1, clock=clock)

    assert [failed.count(f"1.1.1.{n}") for n in range(5)] == [None] * 5
    assert failed.count("1.1.1.0") == 60


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:1.2.3.4", "1.2.3.4", True),
        ("not an address", "", True),
    ],
)
def test_what_one_client_can_choose_from_is_one_address(
    clock: Clock, first: str, second: str, is_same: bool
) -> None:
    failed = FailedKeys(1, clock=clock)
    failed.count(first)

    assert (failed.count(second) is not None) == is_same


def test_all_wait_after_too_many_failures_of_all_addresses(clock: Clock) -> None:
    failed = FailedKeys(20, most_in_all=3, clock=clock)

    waits_s = [failed.count(f"1.1.1.{n}") for n in range(4)]
    clock.now_s += 60

    assert waits_s == [None, None, None, 60]
    assert failed.count("1.1.1.9") is None


def test_table_is_bounded_and_forgets_who_failed_longest_ago(clock: Clock) -> None:
    failed = FailedKeys(1, most_addresses=3, clock=clock)
    for n in range(3):
        failed.count(f"1.1.1.{n}")
    failed.count("1.1.1.0")
    failed.count("1.1.1.3")

    assert len(failed) == 3
    assert failed.count("1.1.1.0") == 60
    assert failed.count("1.1.1.1") is None


@pytest.mark.parametrize(
    ("headers", "client", "address"),
    [
        ([(CLIENT_ADDRESS_HEADER.encode(), b"1.1.1.1")], ("2.2.2.2", 1), "1.1.1.1"),
        ([], ("2.2.2.2", 1), "2.2.2.2"),
        ([], None, ""),
    ],
)
def test_address_is_the_one_that_haproxy_saw(
    headers: list[tuple[bytes, bytes]], client: tuple[str, int] | None, address: str
) -> None:
    assert find_client_address({"headers": headers, "client": client}) == address
