"""What each subcommand of `triptych keys` does with the parsed options."""

import argparse
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from api.admin.key_schema import KeyChanges, KeyFields, Rotation, to_key_object
from api.errors import InvalidRequestError
from api.http.parsing import RequestModel, read_request
from api.ports.administration import KeyAdministration, NewSecret
from api.ports.tenancy import Key
from deployments.cli.command import CommandError, format_table
from deployments.cli.key_options import LIMIT_FIELDS, PROGRAM

_OPTIONS = {
    **{f"limits.{field}": f"--{name.replace('_', '-')}" for name, field in LIMIT_FIELDS.items()},
    "name": "--name",
    "tenant": "--tenant",
    "models": "--model",
    "scopes": "--scope",
    "expires_at": "--expires",
    "grace_s": "--grace",
}
"""Parameter of the HTTP API → option of the command line."""


async def _create(keys: KeyAdministration, options: argparse.Namespace) -> None:
    fields = _check(KeyFields, _to_body(options)).to_fields()
    _print_secret(await keys.create_key(fields), "made")


async def _list(keys: KeyAdministration, _: argparse.Namespace) -> None:
    header = ("ID", "NAME", "TENANT", "SCOPES", "MODELS", "LIMITS", "PRIORITY", "EXPIRES", "STATE")
    rows = [_to_row(key) for key in await keys.list_keys()]
    sys.stdout.write(format_table(header, rows))


async def _show(keys: KeyAdministration, options: argparse.Namespace) -> None:
    _print_key(await keys.get_key(options.key))


async def _set(keys: KeyAdministration, options: argparse.Namespace) -> None:
    changes = _check(KeyChanges, _to_body(options)).to_fields()
    _print_key(await keys.change_key(options.key, changes))


async def _rotate(keys: KeyAdministration, options: argparse.Namespace) -> None:
    rotation = _check(Rotation, {"grace_s": options.grace})
    new = await keys.rotate_key(options.key, rotation.grace_s)
    _print_secret(new, "gave a new secret to")


async def _disable(keys: KeyAdministration, options: argparse.Namespace) -> None:
    _report("disabled", await keys.change_key(options.key, {"is_disabled": True}))


async def _enable(keys: KeyAdministration, options: argparse.Namespace) -> None:
    _report("enabled", await keys.change_key(options.key, {"is_disabled": False}))


async def _delete(keys: KeyAdministration, options: argparse.Namespace) -> None:
    key = await keys.get_key(options.key)
    await keys.delete_key(key.id)
    _report("deleted", key)


COMMANDS: Mapping[str, Callable[[KeyAdministration, argparse.Namespace], Awaitable[None]]] = {
    "create": _create,
    "list": _list,
    "show": _show,
    "set": _set,
    "rotate": _rotate,
    "disable": _disable,
    "enable": _enable,
    "delete": _delete,
}


def _to_body(options: argparse.Namespace) -> dict[str, Any]:
    """Convert the options to the body of an HTTP API request."""
    values = vars(options)
    names = ("name", "tenant", "models", "scopes", "priority", "may_log_prompts")
    body = {name: values[name] for name in names if values[name] is not None}
    if options.expires_at is not ...:
        body["expires_at"] = options.expires_at
    limits = {name: values[name] for name in LIMIT_FIELDS.values() if values[name] is not ...}
    return {**body, "limits": limits} if limits else body


def _check(model: type[RequestModel], body: dict[str, Any]) -> RequestModel:
    """Validate as the HTTP API does; its messages then name the option, not the parameter.

    Raises:
        CommandError: a value is out of bounds.
    """
    try:
        return read_request(json.dumps(body).encode(), model).request
    except InvalidRequestError as error:
        param = str(error.param)
        option = _OPTIONS.get(param.partition("[")[0], param)
        raise CommandError(error.message.replace(f"'{param}'", option, 1)) from None


def _print_secret(new: NewSecret, action: str) -> None:
    """Print only the key to stdout, so that a shell can capture it."""
    print(new.secret)
    _report(f"{action}, and shown once:", new.key)


def _report(action: str, key: Key) -> None:
    print(f"{PROGRAM}: {action} {key.name} ({key.id})", file=sys.stderr)


def _print_key(key: Key) -> None:
    print(json.dumps(to_key_object(key), indent=2, ensure_ascii=False))


def _to_row(key: Key) -> tuple[str | None, ...]:
    shown = to_key_object(key)
    names = {field: option for option, field in LIMIT_FIELDS.items()}
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
