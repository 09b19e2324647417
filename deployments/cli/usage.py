"""`triptych usage`: reports how much was used, as a table or as CSV."""

import argparse
import csv
import sys
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, date, datetime
from typing import get_args

from api.errors import KeyNotFoundError
from api.ports.administration import GroupBy, KeyAdministration, UsageQuery, UsageRow
from deployments.cli.command import (
    ENVIRONMENT,
    CommandError,
    administration_options,
    format_table,
    run,
)
from deployments.cli.times import DAY_S, read_day, read_month, to_unix

_PROGRAM = "triptych usage"
_GROUPS: tuple[GroupBy, ...] = get_args(GroupBy)
_COLUMNS: dict[GroupBy, tuple[str, ...]] = {
    name: ("key_id", "key_name") if name == "key" else (name,) for name in _GROUPS
}
_SUMS = tuple(field.name for field in fields(UsageRow) if field.type is int)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_EXAMPLES = """examples:
  triptych usage
  triptych usage --month 2026-11 --by key,model
  triptych usage --from 2026-11-01 --to 2026-11-07 --by day,tenant --csv > week.csv
  triptych usage --key app --by day --url https://models.example.com
"""


def main(arguments: Sequence[str]) -> int:
    """Print one report and return the exit status."""
    options = _build_parser().parse_args(arguments)

    async def work() -> None:
        from deployments.cli.administration import open_administration  # slow; help needs none

        from_day, to_day = _to_period(options)
        async with open_administration(options) as (keys, usage):
            query = UsageQuery(
                to_unix(from_day),
                to_unix(to_day) + DAY_S,  # not the next day's date: there is none after 9999-12-31
                options.by,
                await _find_id(keys, options.key),
                options.tenant,
                options.model,
            )
            rows = await usage.report_usage(query)
        _print(rows, options.by, is_csv=options.csv)

    return run(_PROGRAM, work)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Reports requests, tokens, images and errors by day, key and model: this\n"
        "month's, unless options say otherwise. Days are UTC.",
        epilog=f"{_EXAMPLES}\n{ENVIRONMENT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[administration_options()],
        allow_abbrev=False,
    )
    parser.add_argument(
        "--from",
        dest="from_day",
        type=read_day,
        metavar="DAY",
        help="the first day, such as 2026-11-22 (default: the first of this month)",
    )
    parser.add_argument(
        "--to", dest="to_day", type=read_day, metavar="DAY", help="the last day (default: today)"
    )
    parser.add_argument(
        "--month", type=read_month, metavar="YYYY-MM", help="a whole month, not --from and --to"
    )
    parser.add_argument(
        "--by",
        type=_read_groups,
        default=("day", "key", "model"),
        metavar="A,B",
        help=f"one row for each combination of: {', '.join(_GROUPS)} (default: day,key,model)",
    )
    parser.add_argument("--key", metavar="ID_OR_NAME", help="only this key")
    parser.add_argument("--tenant", help="only this tenant")
    parser.add_argument("--model", help="only this model")
    parser.add_argument("--csv", action="store_true", help="CSV for a spreadsheet, not a table")
    return parser


def _read_groups(text: str) -> tuple[GroupBy, ...]:
    names = tuple(text.split(","))
    known = tuple(name for name in _GROUPS if name in names)
    if len(known) != len(names):
        raise argparse.ArgumentTypeError(f"{text!r} must be some of {','.join(_GROUPS)}")
    return tuple(sorted(known, key=names.index))


def _to_period(options: argparse.Namespace) -> tuple[date, date]:
    """Return the first and the last day.

    Raises:
        CommandError: the options contradict each other.
    """
    if options.month and (options.from_day or options.to_day):
        raise CommandError("--month says both --from and --to; leave those out")
    today = datetime.now(UTC).date()
    first = (options.month or today).replace(day=1)
    last_of_month = first.replace(day=monthrange(first.year, first.month)[1])
    from_day = options.from_day or first
    to_day = options.to_day or (last_of_month if options.month else max(today, from_day))
    if to_day < from_day:
        raise CommandError(f"--to {to_day} is before --from {from_day}")
    return from_day, to_day


async def _find_id(keys: KeyAdministration, id_or_name: str | None) -> str | None:
    """Return the id of a key; an unknown key is passed on as it is.

    Deleted keys and keys of the environment have usage, but are found by no name.
    """
    if id_or_name is None:
        return None
    try:
        return (await keys.get_key(id_or_name)).id
    except KeyNotFoundError:
        return id_or_name


def _print(rows: Sequence[UsageRow], group_by: Sequence[GroupBy], *, is_csv: bool) -> None:
    columns = [*(column for name in group_by for column in _COLUMNS[name]), *_SUMS]
    cells = [[getattr(row, column) for column in columns] for row in rows]
    if is_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_escape_formula(cell) for cell in line] for line in cells)
    else:
        sys.stdout.write(format_table([column.upper() for column in columns], cells))


def _escape_formula(cell: object) -> object:
    """Quote text that a spreadsheet would run as a formula: clients choose some of the text."""
    is_formula = isinstance(cell, str) and cell.startswith(_FORMULA_STARTS)
    return f"'{cell}" if is_formula else cell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
