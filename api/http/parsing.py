"""Parses a body into a validated request, or an error that names the parameter at fault."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

from pydantic import ValidationError

from api.errors import (
    MAX_QUOTED_CHARS,
    InvalidRequestError,
    MalformedBodyError,
    MissingParameterError,
    UnknownParameterError,
    UnsupportedParameterError,
)
from api.schema.common import Request
from api.schema.strict_json import DuplicateKeyError, TooManyPartsError, read_json
from api.settings import Parameters

RequestModel = TypeVar("RequestModel", bound=Request, covariant=True)

_MAX_NAMES_IN_HEADER = 64
_MAX_ERRORS = 10_000
"""Most validation errors collected per request; only the first is reported."""


@dataclass(frozen=True, slots=True)
class ParsedRequest(Generic[RequestModel]):
    """A valid request, and the names of its parameters that have no effect."""

    request: RequestModel
    without_effect: tuple[str, ...] = ()
    body: bytes = b""
    """The body as the client sent it, if the prompt log needs it."""

    def add_without_effect(self, *names: str) -> Self:
        """Return a copy with further parameters that have no effect."""
        return replace(self, without_effect=(*self.without_effect, *names))

    def headers(self) -> dict[str, str]:
        """Build the response header that lists the parameters without effect.

        Names that a header cannot contain are left out.
        """
        names = [name for name in self.without_effect if name.isascii() and name.isprintable()]
        if len(names) > _MAX_NAMES_IN_HEADER:
            names[_MAX_NAMES_IN_HEADER:] = [f"and {len(names) - _MAX_NAMES_IN_HEADER} more"]
        return {"x-ignored-parameters": ", ".join(names)} if names else {}


def read_json_object(body: bytes) -> dict[str, Any]:
    """Decode a body that must be one JSON object in UTF-8, without NaN or infinity.

    Raises:
        MalformedBodyError: it is anything else, is nested too deeply, or repeats a member.
        InvalidRequestError: it has too many parts.
    """
    try:
        value = read_json(body)
    except TooManyPartsError as error:
        raise InvalidRequestError(f"The request body cannot be read: {error}.") from None
    except DuplicateKeyError:
        raise MalformedBodyError("The request body has an object with a repeated member.") from None
    except ValueError:
        # The parser's message is not passed on, because it may change with its version.
        raise MalformedBodyError("The request body is not valid JSON in UTF-8.") from None
    if not isinstance(value, dict):
        raise MalformedBodyError("The request body must be a JSON object.")
    return value


def read_request(
    body: bytes, model: type[RequestModel], parameters: Parameters = "strict"
) -> ParsedRequest[RequestModel]:
    """Parse a body into a request of the given schema.

    Raises:
        MalformedBodyError: the body is not a JSON object.
        InvalidRequestError: as `read_members`.
    """
    return read_members(read_json_object(body), model, parameters)


def read_members(
    members: dict[str, Any], model: type[RequestModel], parameters: Parameters = "strict"
) -> ParsedRequest[RequestModel]:
    """Validate decoded members as a request of the given schema.

    Args:
        members: changed in place: parameters that are left out are removed.
        model: the schema.
        parameters: the policy for parameters that cannot be honoured.

    Raises:
        MissingParameterError: a required parameter is absent or null.
        UnknownParameterError: the schema does not have a parameter.
        UnsupportedParameterError: a parameter cannot be honoured.
        InvalidRequestError: a value is invalid, or there are too many parameters or errors.
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
    return ParsedRequest(request, tuple(ignored + refused))


def _validate(
    members: dict[str, Any], model: type[RequestModel]
) -> tuple[RequestModel | None, Sequence[Mapping[str, Any]]]:
    """Return the request, or pydantic's error details."""
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
    """Return the paths of the parameters to leave out; none if any error has another cause."""
    paths = [detail["loc"] for detail in details]
    are_unknown = all(detail["type"] in ("extra_forbidden", "unsupported") for detail in details)
    # Messages may be sent as a string of JSON, whose members cannot be removed from the body.
    are_in_body = are_unknown and all(path[-1] in _find(members, path[:-1]) for path in paths)
    return paths if are_in_body else []


def _find(members: Any, path: tuple[int | str, ...]) -> dict[Any, Any]:
    """Return the object at a path; empty if there is none."""
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
        reason = "input should be an object"  # pydantic's message shows the name of the class
    return InvalidRequestError.value(param, f"{reason[0].lower()}{reason[1:]}")


def _to_param(location: tuple[int | str, ...]) -> str:
    """Format a path as OpenAI does: `("messages", 0, "role")` → `messages[0].role`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:MAX_QUOTED_CHARS]}"
    return path.removeprefix(".")
