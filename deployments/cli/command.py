"""What the commands share: options that choose the keys and usage, error reporting, tables."""

import argparse
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from api.errors import ApiError
from deployments.ledger.store.errors import StoreError

ADMIN_KEY_VARIABLE = "TRIPTYCH_ADMIN_KEY"
ENVIRONMENT = f"""environment:
  TRIPTYCH_HOME          folder with the database, the pepper and the audit log
                         (.triptych in the checkout, else ~/.triptych)
  TRIPTYCH_DATABASE_URL  database of keys and usage, unless --database names one
                         (triptych.db in the home folder)
  TRIPTYCH_PEPPER        secret that keys are hashed with (the file pepper in the home folder)
  {ADMIN_KEY_VARIABLE}     admin key of the service that --url names
"""


class CommandError(Exception):
    """The command failed; the message says why."""


def administration_options() -> argparse.ArgumentParser:
    """Build the options that choose where keys and usage are: a database or a running service."""
    parser = argparse.ArgumentParser(add_help=False)
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--database",
        metavar="URL",
        type=_read_url,
        help="the ledger's database, sqlite:///FILE or postgresql://…; the configuration file is "
        "not read (default: TRIPTYCH_DATABASE_URL, else triptych.db in the home folder)",
    )
    place.add_argument(
        "--url",
        type=_read_url,
        help=f"ask a running service instead, with the admin key in {ADMIN_KEY_VARIABLE}",
    )
    return parser


def _read_url(text: str) -> str:
    """Refuse an empty URL: it comes from an unset shell variable, not from a wish for a default."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def run(program: str, work: Callable[[], Coroutine[Any, Any, None]]) -> int:
    """Run one command to its end and return the exit status; report a failure in one line."""
    import asyncio  # here, because help does not need it

    try:
        asyncio.run(work())
    except (CommandError, ApiError, StoreError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    return 0


def format_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Align columns under a header: text to the left, numbers to the right, `-` for None."""
    lines = [list(header), *([_to_cell(value) for value in row] for row in rows)]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    are_numbers = [all(cell.isdecimal() for cell in column[1:]) for column in columns]
    pads = [str.rjust if is_number else str.ljust for is_number in are_numbers]
    return "".join(
        "  ".join(
            pad(cell, width) for cell, width, pad in zip(line, widths, pads, strict=True)
        ).rstrip()
        + "\n"
        for line in lines
    )


def _to_cell(value: object) -> str:
    return "-" if value is None else str(value)
