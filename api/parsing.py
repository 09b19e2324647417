"""Bytes → a validated request, or an error that names the parameter at fault."""

from collections.abc import Mapping
from typing import Any, TypeVar

import pydantic_core
from pydantic import ValidationError

from api.errors import (
    InvalidRequest,
    MalformedBody,
    MissingParameter,
    UnknownParameter,
    UnsupportedParameter,
)
from api.schema.common import Request

RequestModel = TypeVar("RequestModel", bound=Request)

_MAX_NAME_IN_MESSAGE = 64


def read_json_object(body: bytes) -> dict[str, Any]:
    """Decode a body that must be one JSON object in UTF-8, without NaN or infinity.

    Raises:
        MalformedBody: it is anything else, or nested too deeply.
    """
    try:
        value = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError:
        # The parser's own message quotes nothing, but its wording is not ours to promise.
        raise MalformedBody("The request body is not valid JSON in UTF-8.") from None
    if not isinstance(value, dict):
        raise MalformedBody("The request body must be a JSON object.")
    return value


def read_request(
    body: bytes, model: type[RequestModel], unsupported: frozenset[str] = frozenset()
) -> RequestModel:
    """Turn a body into a request of the given schema.

    Args:
        body: the bytes of the HTTP body.
        model: the schema.
        unsupported: parameters that exist at OpenAI and cannot be honoured here.

    Raises:
        MalformedBody: the body is not a JSON object.
        MissingParameter, UnknownParameter, UnsupportedParameter, InvalidRequest: by parameter.
    """
    members = read_json_object(body)
    for name, value in members.items():
        if name in unsupported and value is not None:
            raise UnsupportedParameter(
                f"The parameter '{name}' is not supported by this service.", param=name
            )
    try:
        return model.model_validate(members, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise _to_invalid_request(first) from None


def _to_invalid_request(detail: Mapping[str, Any]) -> InvalidRequest:
    param = _to_param(detail["loc"])
    if detail["type"] == "missing":
        return MissingParameter(f"Missing required parameter: '{param}'.", param=param)
    if detail["type"] == "extra_forbidden":
        return UnknownParameter(f"Unknown parameter: '{param}'.", param=param)
    reason = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "model_type":
        reason = "input should be an object"  # pydantic's words name our class
    return InvalidRequest(
        f"Invalid value for '{param}': {reason[0].lower()}{reason[1:]}.", param=param
    )


def _to_param(location: tuple[int | str, ...]) -> str:
    """`("messages", 0, "role")` → `messages[0].role`, as OpenAI writes it."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part[:_MAX_NAME_IN_MESSAGE]}"
    return path.removeprefix(".")
