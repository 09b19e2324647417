"""Times as people write them on a command line. Whatever is none raises ArgumentTypeError."""

import argparse
import re
import time
from datetime import UTC, date, datetime

NONE = "none"
"""What takes a limit or an expiry away."""

DAY_S = 86_400
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": DAY_S, "w": 7 * DAY_S}
_MAX_DIGITS = 9


def read_duration(text: str) -> int:
    """`90s`, `15m`, `1h`, `30d`, `2w` or `0`, in seconds."""
    if text == "0":
        return 0
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
    """A day, a duration from now on, or `none`: Unix time, and not one that is over."""
    if text == NONE:
        return None
    now = int(time.time())
    is_duration = re.fullmatch(r"[0-9]+[a-z]", text)
    moment = now + read_duration(text) if is_duration else to_unix(read_day(text))
    if moment <= now:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not after now; to end a key at once, disable it"
        )
    return moment


def to_unix(day: date) -> int:
    """The first moment of a day, in UTC."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
