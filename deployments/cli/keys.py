"""`scripts/keys`: makes, shows, changes and deletes API keys, whether or not the service runs."""

import argparse
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from api.admin.key_schema import KeyChanges, KeyFields, Rotation, to_key_object
from api.errors import InvalidRequestError
from api.http.parsing import RequestModel, read_request
from api.ports.administration import Administration, NewSecret
from api.ports.tenancy import PRIORITIES, SCOPES, Key
from deployments.cli.command import CommandError, administration, format_table, place_options, run
from deployments.cli.times import NONE, read_duration, read_expiry

_PROGRAM = "scripts/keys"
_LIMITS = {
    "rpm": "requests_per_minute",
    "tpm": "tokens_per_minute",
    "ipm": "images_per_minute",
    "concurrency": "concurrent_requests",
    "tokens_per_day": "tokens_per_day",
    "tokens_per_month": "tokens_per_month",
}
"""Option → field of `KeyLimits`."""

_OPTIONS = {
    **{f"limits.{field}": f"--{name.replace('_', '-')}" for name, field in _LIMITS.items()},
    "name": "--name",
    "tenant": "--tenant",
    "models": "--model",
    "scopes": "--scope",
    "expires_at": "--expires",
    "grace_s": "--grace",
}
"""What the HTTP API calls a parameter → the option that says it here."""

Command = Callable[[Administration, argparse.Namespace], Awaitable[None]]


def main(arguments: Sequence[str]) -> int:
    """Do one command; the exit status."""
    options = _parser().parse_args(arguments)
    command: Command = options.command

    async def work() -> None:
        async with administration(options) as place:
            await command(place, options)

    return run(_PROGRAM, work)


async def _create(place: Administration, options: argparse.Namespace) -> None:
    fields = _check(KeyFields, _given(options)).to_fields()
    _hand_over(await place.create_key(fields), "made")


async def _list(place: Administration, _: argparse.Namespace) -> None:
    header = ("ID", "NAME", "TENANT", "SCOPES", "MODELS", "LIMITS", "PRIORITY", "EXPIRES", "STATE")
    rows = [_to_row(key) for key in await place.list_keys()]
    sys.stdout.write(format_table(header, rows))


async def _show(place: Administration, options: argparse.Namespace) -> None:
    _print_key(await place.get_key(options.key))


async def _set(place: Administration, options: argparse.Namespace) -> None:
    changes = _check(KeyChanges, _given(options)).to_fields()
    _print_key(await place.change_key(options.key, changes))


async def _rotate(place: Administration, options: argparse.Namespace) -> None:
    rotation = _check(Rotation, {"grace_s": options.grace})
    _hand_over(await place.rotate_key(options.key, rotation.grace_s), "gave a new secret to")


async def _disable(place: Administration, options: argparse.Namespace) -> None:
    _note("disabled", await place.change_key(options.key, {"is_disabled": True}))


async def _enable(place: Administration, options: argparse.Namespace) -> None:
    _note("enabled", await place.change_key(options.key, {"is_disabled": False}))


async def _delete(place: Administration, options: argparse.Namespace) -> None:
    key = await place.get_key(options.key)
    await place.delete_key(key.id)
    _note("deleted", key)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_PROGRAM, description="API keys", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, description=text, parents=[place_options()], allow_abbrev=False
        )
        added.set_defaults(command=command)
        return added

    create = add("create", _create, "make a key and print it, this once")
    create.add_argument("--name", required=True)
    _add_fields(create)
    add("list", _list, "a table of all keys")
    for name, command, text in (
        ("show", _show, "one key, as JSON"),
        ("set", _set, "change what is given"),
        ("rotate", _rotate, "give a key a new secret and print it, this once"),
        ("disable", _disable, "let a key open nothing"),
        ("enable", _enable, "let it open again"),
        ("delete", _delete, "forget a key; its usage stays"),
    ):
        added = add(name, command, text)
        added.add_argument("key", metavar="ID_OR_NAME")
        if name == "set":
            added.add_argument("--name")
            _add_fields(added)
        if name == "rotate":
            added.add_argument(
                "--grace",
                type=read_duration,
                default=0,
                metavar="TIME",
                help="how long the old one still opens, such as 90s, 15m, 1h, 30d or 2w; 0 is the "
                "default",
            )
    return parser


def _add_fields(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tenant", help="whose key it is; its name unless given")
    parser.add_argument(
        "--model",
        dest="models",
        metavar="GLOB",
        nargs="+",
        action="extend",
        help="models and adapters that it may use (all)",
    )
    parser.add_argument(
        "--scope",
        dest="scopes",
        nargs="+",
        action="extend",
        choices=SCOPES,
        help="what it may do (all but admin)",
    )
    for option, field in _LIMITS.items():
        text = f"{field.replace('_', ' ')}, or {NONE}"
        parser.add_argument(
            f"--{option.replace('_', '-')}", dest=field, type=_read_limit, metavar="N", help=text
        )
    parser.add_argument("--priority", choices=PRIORITIES)
    parser.add_argument(
        "--allow-prompt-log",
        dest="may_log_prompts",
        action=argparse.BooleanOptionalAction,
        help="whether its requests may say log_prompt",
    )
    parser.add_argument(
        "--expires",
        dest="expires_at",
        type=read_expiry,
        metavar="WHEN",
        help=f"a day such as 2027-01-01, at whose beginning it ends (UTC), a duration such as 90s, "
        f"15m, 1h, 30d or 2w, or {NONE}",
    )
    # A null says "none" in a change, so what was not given has to be absent.
    parser.set_defaults(**dict.fromkeys([*_LIMITS.values(), "expires_at"], ...))


def _read_limit(text: str) -> int | None:
    if text == NONE:
        return None
    if text.isascii() and text.isdigit():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor {NONE}")


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The options as the body of a request."""
    members = vars(options)
    names = ("name", "tenant", "models", "scopes", "priority", "may_log_prompts")
    body = {name: members[name] for name in names if members[name] is not None}
    if options.expires_at is not ...:
        body["expires_at"] = options.expires_at
    limits = {name: members[name] for name in _LIMITS.values() if members[name] is not ...}
    return {**body, "limits": limits} if limits else body


def _check(model: type[RequestModel], body: dict[str, Any]) -> RequestModel:
    """The same words for a mistake as the HTTP API has, but for the name of what is wrong.

    Raises:
        CommandError: something is out of bounds.
    """
    try:
        return read_request(json.dumps(body).encode(), model).request
    except InvalidRequestError as error:
        param = str(error.param)
        option = _OPTIONS.get(param.partition("[")[0], param)
        raise CommandError(error.message.replace(f"'{param}'", option, 1)) from None


def _hand_over(new: NewSecret, done: str) -> None:
    """Only the key goes to stdout, so that a shell can take it from there."""
    print(new.secret)
    _note(f"{done}, and shown once:", new.key)


def _note(done: str, key: Key) -> None:
    print(f"{_PROGRAM}: {done} {key.name} ({key.id})", file=sys.stderr)


def _print_key(key: Key) -> None:
    print(json.dumps(to_key_object(key), indent=2, ensure_ascii=False))


def _to_row(key: Key) -> tuple[str | None, ...]:
    shown = to_key_object(key)
    names = {field: option for option, field in _LIMITS.items()}
    limits = [f"{names[field]}={n}" for field, n in shown["limits"].items() if n is not None]
    expires, state = None, "disabled" if key.is_disabled else "active"
    if key.expires_at_s is not None:
        expires = f"{datetime.fromtimestamp(key.expires_at_s, UTC):%Y-%m-%d %H:%M}"
        is_over = datetime.now(UTC).timestamp() >= key.expires_at_s
        state = "expired" if is_over and not key.is_disabled else state
    return (
        key.id,
        key.name,
        key.tenant,
        ",".join(shown["scopes"]),
        ",".join(key.models),
        " ".join(limits) or None,
        key.priority,
        expires,
        state,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
