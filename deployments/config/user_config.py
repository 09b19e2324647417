"""Ray Serve's `user_config`: arguments that change in running replicas, without a restart.

It stands under `deployments:` beside Serve's options, has the names of `args`, and wins over them.
A mapping replaces only the keys that it has. What is not valid is refused as a whole, and what was
in use goes on: Serve would otherwise stop every running replica for one mistyped key.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from deployments.config.base import Args
from deployments.config.reasons import to_lines

logger = logging.getLogger(__name__)

_IS_FIXED = "changes with a restart only; it stands under args"

Arguments = TypeVar("Arguments", bound=Args)


class UserConfigError(ValueError):
    """A `user_config` cannot be used; `str()` is one line that names the key and the reason."""


class LiveArgs(Generic[Arguments]):
    """The arguments of one replica, as its `user_config` changes them."""

    def __init__(self, deployed: Arguments) -> None:
        """Start with the arguments that the replica was deployed with."""
        self._deployed = deployed
        self.current = deployed

    def update(self, user_config: Any) -> Arguments:
        """Apply a `user_config`, or log why it cannot be used; returns what is in use then."""
        try:
            self.current = apply_user_config(self._deployed, user_config)
        except UserConfigError as error:
            logger.error("%s; what was in use before goes on", error)
        return self.current


class Reconfigurable(Generic[Arguments]):
    """A replica whose arguments change with `user_config`."""

    _args: LiveArgs[Arguments]

    async def reconfigure(self, user_config: Any, rank: Any) -> None:
        """Apply Serve's `user_config`: after the constructor, and whenever it has changed.

        `rank` is there because Serve tells only methods that take it that `user_config` is gone.
        It is a coroutine because Serve calls other methods in a thread.
        """
        self._apply(self._args.update(user_config))

    def _apply(self, args: Arguments) -> None:
        """Use the arguments that may change."""
        raise NotImplementedError


def apply_user_config(args: Arguments, user_config: Any) -> Arguments:
    """Return the arguments with the live ones replaced; None replaces nothing.

    Raises:
        UserConfigError: a key does not exist or cannot change without a restart, or a value is
            invalid.
    """
    changed, problems = _change(args, user_config)
    if problems:
        raise UserConfigError(f"user_config{problems[0]}")
    return changed


def find_user_config_problems(args: Args, user_config: Any) -> Sequence[str]:
    """Return a line for each mistake, which begins with the path inside `user_config`."""
    return _change(args, user_config)[1]


def _change(args: Arguments, user_config: Any) -> tuple[Arguments, Sequence[str]]:
    """Return the changed arguments, and the problems for which they cannot be used."""
    if user_config is None:
        return args, []
    if problems := list(_find_wrong_keys(args, user_config)):
        return args, problems
    try:
        changed = type(args).model_validate(_merge(args, user_config))
    except ValidationError as error:
        return args, list(to_lines(error, "."))
    problem = args.find_change_problem(changed)
    return changed, [f".{problem}"] if problem else []


def _find_wrong_keys(args: Args, user_config: Any) -> Iterator[str]:
    if not isinstance(user_config, Mapping):
        yield ": must be a mapping"
        return
    for key in user_config:
        if key not in args.live_keys:
            is_fixed = key in type(args).model_fields
            yield f".{key}: {_IS_FIXED if is_fixed else 'there is no such key'}"


def _merge(args: Args, user_config: Mapping[str, Any]) -> dict[str, Any]:
    merged = args.model_dump(exclude_unset=True)
    for key, value in user_config.items():
        is_block = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = {**merged[key], **value} if is_block else value
    return merged
