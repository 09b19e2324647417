"""Bytes → a validated request, or an error that names the parameter at fault."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from api.errors import (
    InvalidRequestError,
    MalformedBodyError,
    MissingParameterError,
    UnknownParameterError,
    UnsupportedParameterError,
)
from api.schema.common import Request
from api.schema.strict_json import DuplicateKeyError, read_json
from api.settings import Parameters

RequestModel = TypeVar("RequestModel", bound=Request, covariant=True)

_MAX_NAME_IN_MESSAGE = 64
_MAX_NAMES_IN_HEADER = 64
_MAX_ERRORS = 10_000
"""Of one request, whose first is told: to look at more takes long."""
_MAX_CONTAINERS = 500_000
"""So many arrays and objects take 0.2 s to read, in which nobody else is served."""
_STRING = re.compile(rb'(?s)"[^"\\]*(?:\\.[^"\\]*)*"?')
"""One without an end goes to the end: each of its quotes would be tried as a beginning, else."""


@dataclass(frozen=True, slots=True)
class Read(Generic[RequestModel]):
    """A request, and the parameters that it had and that are without effect."""

    request: RequestModel
    ignored: tuple[str, ...] = ()

    def headers(self) -> dict[str, str]:
        """What the response says about it; not every name that a client sends fits a header."""
        names = [name for name in self.ignored if name.isascii() and name.isprintable()]
        if len(names) > _MAX_NAMES_IN_HEADER:
            names[_MAX_NAMES_IN_HEADER:] = [f"and {len(names) - _MAX_NAMES_IN_HEADER} more"]
        return {"x-ignored-parameters": ", ".join(names)} if names else {}


def read_json_object(body: bytes) -> dict[str, Any]:
    """Decode a body that must be one JSON object in UTF-8, without NaN or infinity.

    Raises:
        MalformedBodyError: it is anything else, is nested too deeply, or has a member twice.
        InvalidRequestError: it has far too many arrays and objects.
    """
    if _has_more_containers(body, _MAX_CONTAINERS):
        raise InvalidRequestError(
            f"The request body has more than {_MAX_CONTAINERS} arrays and objects."
        )
    try:
        value = read_json(body)
    except DuplicateKeyError:
        raise MalformedBodyError("The request body has an object with a member twice.") from None
    except ValueError:
        # The parser's own message quotes nothing, but its wording is not ours to promise.
        raise MalformedBodyError("The request body is not valid JSON in UTF-8.") from None
    if not isinstance(value, dict):
        raise MalformedBodyError("The request body must be a JSON object.")
    return value


def _has_more_containers(body: bytes, count: int) -> bool:
    """Whether JSON opens more arrays and objects; brackets in its texts do not count."""
    if body.count(b"[") + body.count(b"{") <= count:
        return False
    plain = _STRING.sub(b"", body)
    return plain.count(b"[") + plain.count(b"{") > count


def read_request(
    body: bytes, model: type[RequestModel], parameters: Parameters = "strict"
) -> Read[RequestModel]:
    """Turn a body into a request of the given schema.

    Raises:
        MalformedBodyError: the body is not a JSON object.
        MissingParameterError, UnknownParameterError, UnsupportedParameterError, InvalidRequestError: by parameter.
    """
    return read_members(read_json_object(body), model, parameters)


def read_members(
    members: dict[str, Any], model: type[RequestModel], parameters: Parameters = "strict"
) -> Read[RequestModel]:
    """The same for members that have been decoded.

    Raises:
        MissingParameterError, UnknownParameterError, UnsupportedParameterError, InvalidRequestError: by parameter,
            unless there are far too many of them.
    """
    _check_count(members, model)
    ignored = [name for name in members if name in model.reported and members[name] is not None]
    refused = [name for name in members if name in model.refused and members[name] is not None]
    if refused and parameters == "strict":
        raise _unsupported(refused[0])
    for name in [*ignored, *refused]:
        if name not in model.model_fields:
            del members[name]
    request, details = _validate(members, model)
    if parameters == "lenient" and (paths := _ignorable(details, members)):
        for path in paths:
            del _find(members, path[:-1])[path[-1]]
        refused += map(_to_param, paths)
        request, details = _validate(members, model)
    if request is None:
        raise _to_invalid_request(details[0])
    return Read(request, tuple(ignored + refused))


def _validate(
    members: dict[str, Any], model: type[RequestModel]
) -> tuple[RequestModel | None, Sequence[Mapping[str, Any]]]:
    """The request, or else what is wrong with it, by pydantic's names."""
    try:
        return model.model_validate(members, strict=True, context={}), ()
    except ValidationError as error:
        if error.error_count() > _MAX_ERRORS:
            raise InvalidRequestError(f"The request has {error.error_count()} errors.") from None
        return None, error.errors(include_url=False, include_input=False)


def _check_count(members: Mapping[str, Any], model: type[Request]) -> None:
    if len(members) > model.count_members():
        raise InvalidRequestError(f"The request has more than {model.count_members()} parameters.")


def _ignorable(
    details: Sequence[Mapping[str, Any]], members: dict[str, Any]
) -> list[tuple[int | str, ...]]:
    """The paths of what may be left out; nothing if anything else is wrong too."""
    paths = [detail["loc"] for detail in details]
    can_all = all(detail["type"] in ("extra_forbidden", "unsupported") for detail in details)
    # What was read from a text, as messages may be, is not there to be left out.
    is_there = can_all and all(path[-1] in _find(members, path[:-1]) for path in paths)
    return paths if is_there else []


def _find(members: Any, path: tuple[int | str, ...]) -> dict[Any, Any]:
    """The object at a path; an empty one if nothing is there."""
    for part in path:
        try:
            members = members[part]
        except (LookupError, TypeError):
            return {}
    return members if isinstance(members, dict) else {}


def _unsupported(name: str) -> UnsupportedParameterError:
    return UnsupportedParameterError(
        f"The parameter '{name}' is not supported by this service.", param=name
    )


def _to_invalid_request(detail: Mapping[str, Any]) -> InvalidRequestError:
    param = _to_param(detail["loc"])
    if detail["type"] == "missing":
        return MissingParameterError(f"Missing required parameter: '{param}'.", param=param)
    if detail["type"] == "extra_forbidden":
        return UnknownParameterError(f"Unknown parameter: '{param}'.", param=param)
    if detail["type"] == "unsupported":
        return UnsupportedParameterError(f"{detail['msg']}.", param=param)
    reason = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "model_type":
        reason = "input should be an object"  # pydantic's words name our class
    return InvalidRequestError(
        f"Invalid value for '{param}': {reason[0].lower()}{reason[1:]}.", param=param
    )


def _to_param(location: tuple[int | str, ...]) -> str:
    """`("messages", 0, "role")` → `messages[0].role`, as OpenAI writes it."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:_MAX_NAME_IN_MESSAGE]}"
    return path.removeprefix(".")
