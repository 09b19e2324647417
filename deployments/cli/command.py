"""What the commands share: where keys and usage are, how they fail, and tables."""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from api.errors import ApiError
from api.ports.administration import Administration
from deployments.cli.http_administration import HttpAdministration
from deployments.home import find_home
from deployments.ledger.audit_log import AuditLog
from deployments.ledger.pepper import load_pepper
from deployments.ledger.store.administration import StoredAdministration
from deployments.ledger.store.database import VARIABLE, Database, default_url
from deployments.ledger.store.errors import StoreError
from deployments.ledger.store.keys import KeyStore
from deployments.ledger.store.usage import UsageStore

_ADMIN_KEY = "TRIPTYCH_ADMIN_KEY"


class CommandError(Exception):
    """The command cannot be done; the message says why."""


def place_options() -> argparse.ArgumentParser:
    """Options that all commands have."""
    parser = argparse.ArgumentParser(add_help=False)
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--database",
        metavar="URL",
        type=_read_url,
        help="sqlite:///FILE or postgresql://…: what the ledger's args say, which are not read "
        f"here; without, {VARIABLE}, else triptych.db in the home folder",
    )
    place.add_argument(
        "--url",
        type=_read_url,
        help=f"ask a running service instead, with the admin key in {_ADMIN_KEY}",
    )
    return parser


def _read_url(text: str) -> str:
    """An empty one is a shell variable that is not set: another place is not what was meant."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def run(program: str, work: Callable[[], Awaitable[None]]) -> int:
    """Do the work of one command; the exit status. A failure is one line."""
    try:
        asyncio.run(_to_coroutine(work))
    except (CommandError, ApiError, StoreError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    return 0


async def _to_coroutine(work: Callable[[], Awaitable[None]]) -> None:
    await work()


@asynccontextmanager
async def administration(options: argparse.Namespace) -> AsyncIterator[Administration]:
    """Keys and usage where the options say.

    Raises:
        CommandError: an admin key is needed, and there is none; or the pepper is not a good one.
        StoreError: the database cannot be used.
    """
    if options.url is not None:
        admin_key = os.environ.get(_ADMIN_KEY)
        if not admin_key:
            raise CommandError(f"--url needs an admin key in the environment variable {_ADMIN_KEY}")
        async with HttpAdministration(options.url, admin_key) as remote:
            yield remote
        return
    database = Database(options.database or default_url())
    audit = AuditLog(find_home() / "logs" / "audit.jsonl", actor="cli")
    try:
        keys = KeyStore(database, _load_pepper(), audit)
        await database.migrate()
        await keys.check_pepper()
        yield StoredAdministration(keys, UsageStore(database))
    finally:
        await database.close()


def _load_pepper() -> bytes:
    try:
        return load_pepper()
    except (ValueError, OSError) as error:
        raise CommandError(f"the pepper of the keys: {error}") from None


def format_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns under a header: texts to the left, numbers to the right, `-` for None."""
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
