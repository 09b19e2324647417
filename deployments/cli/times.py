"""Times as people write them on a command line. Whatever is none raises ArgumentTypeError."""

import argparse
import re
import time
from datetime import UTC, date, datetime

NONE = "none"
"""What takes a limit or an expiry away."""

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MAX_DIGITS = 9


def read_duration(text: str) -> int:
    """`90s`, `15m`, `1h`, `30d` or `2w`, in seconds."""
    found = re.fullmatch(rf"([0-9]{{1,{_MAX_DIGITS}}})([smhdw])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 90s, 15m, 1h or 30d")
    return int(found[1]) * _UNITS_S[found[2]]


def read_day(text: str) -> date:
    """`2026-11-22`."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day such as 2026-11-22") from None


def read_month(text: str) -> date:
    """`2026-11`: its first day."""
    try:
        return datetime.strptime(text, "%Y-%m").date()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no month such as 2026-11") from None


def read_expiry(text: str) -> int | None:
    """A day, a duration from now on, or `none`: Unix time."""
    if text == NONE:
        return None
    if re.fullmatch(r"[0-9]+[a-z]", text):
        return int(time.time()) + read_duration(text)
    return to_unix(read_day(text))


def to_unix(day: date) -> int:
    """The first moment of a day, in UTC."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
