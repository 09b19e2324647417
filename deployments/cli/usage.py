"""`scripts/usage`: sums of what was used, as a table or as CSV."""

import argparse
import csv
import sys
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, date, datetime
from typing import get_args

from api.errors import KeyNotFoundError
from api.ports.administration import Administration, GroupBy, UsageQuery, UsageRow
from deployments.cli.command import CommandError, administration, format_table, place_options, run
from deployments.cli.times import DAY_S, read_day, read_month, to_unix

_PROGRAM = "scripts/usage"
_GROUPS: tuple[GroupBy, ...] = get_args(GroupBy)
_COLUMNS: dict[GroupBy, tuple[str, ...]] = {
    name: ("key_id", "key_name") if name == "key" else (name,) for name in _GROUPS
}
_SUMS = tuple(field.name for field in fields(UsageRow) if field.type is int)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def main(arguments: Sequence[str]) -> int:
    """Print one report; the exit status."""
    options = _parser().parse_args(arguments)

    async def work() -> None:
        from_day, to_day = _period(options)
        async with administration(options) as place:
            query = UsageQuery(
                to_unix(from_day),
                to_unix(to_day) + DAY_S,  # a sum of days would have to end before the year 10000
                options.by,
                await _find_id(place, options.key),
                options.tenant,
                options.model,
            )
            rows = await place.report_usage(query)
        _print(rows, options.by, is_csv=options.csv)

    return run(_PROGRAM, work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Usage by day, key and model; this month's, unless told otherwise. In UTC.",
        parents=[place_options()],
        allow_abbrev=False,
    )
    parser.add_argument("--from", dest="from_day", type=read_day, metavar="DAY")
    parser.add_argument("--to", dest="to_day", type=read_day, metavar="DAY", help="the last one")
    parser.add_argument("--month", type=read_month, metavar="YYYY-MM")
    parser.add_argument(
        "--by", type=_read_groups, default=("day", "key", "model"), help=", ".join(_GROUPS)
    )
    parser.add_argument("--key", metavar="ID_OR_NAME")
    parser.add_argument("--tenant")
    parser.add_argument("--model")
    parser.add_argument("--csv", action="store_true", help="for a spreadsheet")
    return parser


def _read_groups(text: str) -> tuple[GroupBy, ...]:
    names = tuple(text.split(","))
    known = tuple(name for name in _GROUPS if name in names)
    if len(known) != len(names):
        raise argparse.ArgumentTypeError(f"{text!r} must be some of {','.join(_GROUPS)}")
    return tuple(sorted(known, key=names.index))


def _period(options: argparse.Namespace) -> tuple[date, date]:
    """The first and the last day.

    Raises:
        CommandError: there are none such.
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


async def _find_id(place: Administration, id_or_name: str | None) -> str | None:
    """The key's id; a key that has been deleted, or is of the environment, is known by it only."""
    if id_or_name is None:
        return None
    try:
        return (await place.get_key(id_or_name)).id
    except KeyNotFoundError:
        return id_or_name


def _print(rows: Sequence[UsageRow], group_by: Sequence[GroupBy], *, is_csv: bool) -> None:
    columns = [*(column for name in group_by for column in _COLUMNS[name]), *_SUMS]
    cells = [[getattr(row, column) for column in columns] for row in rows]
    if is_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_to_harmless(cell) for cell in line] for line in cells)
    else:
        sys.stdout.write(format_table([column.upper() for column in columns], cells))


def _to_harmless(cell: object) -> object:
    """Spreadsheets run texts that begin like a formula, and clients choose some of the texts."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else cell


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
