"""Reads days, months and durations from the command line; invalid text: ArgumentTypeError."""

import argparse
import re
import time
from datetime import UTC, date, datetime

NONE = "none"
"""Removes a limit or an expiry."""

DAY_S = 86_400
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": DAY_S, "w": 7 * DAY_S}
_MAX_DIGITS = 9


def read_duration(text: str) -> int:
    """Read `90s`, `15m`, `1h`, `30d`, `2w` or `0` and return seconds."""
    if text == "0":
        return 0
    found = re.fullmatch(rf"([0-9]{{1,{_MAX_DIGITS}}})([smhdw])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 15m, 1h or 30d")
    return int(found[1]) * _UNITS_S[found[2]]


def read_day(text: str) -> date:
    """Read a day such as `2026-11-22`."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day such as 2026-11-22") from None


def read_month(text: str) -> date:
    """Read a month such as `2026-11` and return its first day."""
    try:
        return datetime.strptime(text, "%Y-%m").date()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a month such as 2026-11") from None


def read_expiry(text: str) -> int | None:
    """Read a day, a duration from now or `none`; return Unix time, which must be in the future."""
    if text == NONE:
        return None
    now = int(time.time())
    is_duration = re.fullmatch(r"[0-9]+[a-z]", text)
    moment = now + read_duration(text) if is_duration else to_unix(read_day(text))
    if moment <= now:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not in the future; to end a key now, disable it"
        )
    return moment


def to_unix(day: date) -> int:
    """Return the Unix time at which a day begins in UTC."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
