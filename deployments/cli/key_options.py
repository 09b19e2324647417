"""The options of `triptych keys`; what each subcommand does is in `key_commands.py`."""

import argparse

from api.ports.tenancy import PRIORITIES, SCOPES
from deployments.cli.command import ENVIRONMENT, administration_options
from deployments.cli.times import NONE, read_duration, read_expiry

PROGRAM = "triptych keys"
LIMIT_FIELDS = {
    "rpm": "requests_per_minute",
    "tpm": "tokens_per_minute",
    "ipm": "images_per_minute",
    "pixel_steps": "pixel_steps_per_minute",
    "concurrency": "concurrent_requests",
    "tokens_per_day": "tokens_per_day",
    "tokens_per_month": "tokens_per_month",
}
"""Option → field of `KeyLimits`."""

_LIMIT_HELP = {
    "rpm": "requests in any 60 seconds",
    "tpm": "tokens in any 60 seconds, prompt and completion",
    "ipm": "images in any 60 seconds",
    "pixel_steps": "width × height × steps of all images in any 60 seconds",
    "concurrency": "requests at the same time",
    "tokens_per_day": "tokens in a calendar day (UTC)",
    "tokens_per_month": "tokens in a calendar month (UTC)",
}
_EXAMPLES = """examples:
  triptych keys create --name app --rpm 60 --tokens-per-day 1000000
  triptych keys create --name batch --tenant research --model 'org/*' --priority low --expires 30d
  triptych keys create --name ops --scope admin
  triptych keys list
  triptych keys set app --rpm none --tpm 20000
  triptych keys rotate app --grace 1h
  triptych keys disable app --url https://models.example.com

`triptych keys COMMAND --help` lists the options of a command.
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all subcommands; `options.command` is the name of the one to run."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Makes, lists, changes and deletes API keys, whether or not the service runs.",
        epilog=f"{_EXAMPLES}\n{ENVIRONMENT}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            parents=[administration_options()],
            allow_abbrev=False,
        )

    create = add("create", "make a key and print it; it is shown only this once")
    create.add_argument("--name", required=True, help="unique; stands in reports and logs")
    _add_fields(create)
    add("list", "list all keys in a table")
    for name, text in (
        ("show", "print one key as JSON, without its secret"),
        ("set", "change the fields that are given, and print the key as JSON"),
        ("rotate", "give a key a new secret and print it; it is shown only this once"),
        ("disable", "refuse all requests with a key, until it is enabled"),
        ("enable", "accept requests with a disabled key again"),
        ("delete", "delete a key; its usage records stay"),
    ):
        added = add(name, text)
        added.add_argument("key", metavar="ID_OR_NAME")
        if name == "set":
            added.add_argument("--name", help="the new name")
            _add_fields(added)
        if name == "rotate":
            added.add_argument(
                "--grace",
                type=read_duration,
                default=0,
                metavar="TIME",
                help="how long the old secret still works, such as 90s, 15m, 1h, 30d or 2w "
                "(default: 0)",
            )
    return parser


def _add_fields(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tenant", help="whom usage is counted for (default: the key's name)")
    parser.add_argument(
        "--model",
        dest="models",
        metavar="GLOB",
        nargs="+",
        action="extend",
        help="models and adapters that the key may use (default: all)",
    )
    parser.add_argument(
        "--scope",
        dest="scopes",
        nargs="+",
        action="extend",
        choices=SCOPES,
        help="what the key may do (default: all but admin)",
    )
    for option, field in LIMIT_FIELDS.items():
        parser.add_argument(
            f"--{option.replace('_', '-')}",
            dest=field,
            type=_read_limit,
            metavar="N",
            help=f"most {_LIMIT_HELP[option]}, or {NONE}",
        )
    parser.add_argument(
        "--priority", choices=PRIORITIES, help="whose requests leave a model's queue first"
    )
    parser.add_argument(
        "--allow-prompt-log",
        dest="may_log_prompts",
        action=argparse.BooleanOptionalAction,
        help="whether requests with this key may set log_prompt",
    )
    parser.add_argument(
        "--expires",
        dest="expires_at",
        type=read_expiry,
        metavar="WHEN",
        help="a day such as 2027-01-01 (the key ends when it begins, UTC), a duration such as "
        f"90s, 15m, 1h, 30d or 2w, or {NONE}",
    )
    # None says "none" in a change, so a field that was not given needs another default.
    parser.set_defaults(**dict.fromkeys([*LIMIT_FIELDS.values(), "expires_at"], ...))


def _read_limit(text: str) -> int | None:
    if text == NONE:
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor {NONE}")
