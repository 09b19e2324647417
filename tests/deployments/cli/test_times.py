import argparse
import time
from datetime import UTC, date, datetime

import pytest

from deployments.cli.times import read_day, read_duration, read_expiry, read_month, to_unix


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("0s", 0),
        ("90s", 90),
        ("15m", 900),
        ("1h", 3600),
        ("30d", 2_592_000),
        ("2w", 1_209_600),
    ],
)
def test_duration_is_read_as_seconds(text: str, seconds: int) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "h", "-1h", "1.5h", "1H", "1y", "1h ", "9" * 10 + "s"])
def test_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a duration"):
        read_duration(text)


def test_day_and_month_are_read_as_dates() -> None:
    assert read_day("2026-11-22") == date(2026, 11, 22)
    assert read_month("2026-11") == date(2026, 11, 1)


@pytest.mark.parametrize("text", ["", "2026-02-30", "22.11.2026", "2026-11"])
def test_invalid_day_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a day"):
        read_day(text)


@pytest.mark.parametrize("text", ["", "2026-13", "2026-11-22"])
def test_invalid_month_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a month"):
        read_month(text)


def test_expiry_is_a_day_a_duration_or_none() -> None:
    assert read_expiry("2099-01-01") == datetime(2099, 1, 1, tzinfo=UTC).timestamp()
    assert read_expiry("1h") == pytest.approx(time.time() + 3600, abs=30)
    assert read_expiry("none") is None


@pytest.mark.parametrize("text", ["1999-01-01", "0d", "0s", f"{datetime.now(UTC):%Y-%m-%d}"])
def test_expiry_in_the_past_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not in the future"):
        read_expiry(text)


def test_day_begins_at_midnight_utc() -> None:
    assert to_unix(date(1970, 1, 2)) == 86_400
