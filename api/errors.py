"""Every error a client can see; each knows its HTTP status, OpenAI type and code.

ApiError                      500 server_error
├── InvalidRequestError            400 invalid_request_error   invalid_value
│   ├── MalformedBodyError         400                         invalid_json
│   ├── MissingParameterError      400                         missing_required_parameter
│   ├── UnknownParameterError      400                         unknown_parameter
│   ├── UnsupportedParameterError  400                         unsupported_parameter
│   ├── ContextLengthExceededError 400                         context_length_exceeded
│   ├── WrongModelKindError        400                         wrong_model_kind
│   ├── InvalidImageError          400                         invalid_image_url
│   ├── InvalidImageFileError      400                         invalid_image_file
│   ├── InvalidApiKeyError         401                         invalid_api_key
│   ├── InsufficientPermissionsError 403                       insufficient_permissions
│   ├── RouteNotFoundError         404                         not_found
│   ├── ModelNotFoundError         404                         model_not_found
│   ├── KeyNotFoundError           404                         key_not_found
│   ├── MethodNotAllowedError      405                         method_not_allowed
│   ├── BodyTimeoutError           408                         request_timeout
│   ├── PayloadTooLargeError       413                         payload_too_large
│   └── UnsupportedMediaTypeError  415                         unsupported_media_type
├── RateLimitError               429 rate_limit_error        rate_limit_exceeded    retry when it says
│   └── InsufficientQuotaError     429 insufficient_quota      insufficient_quota     never retried
├── InternalError             500 server_error            internal_error
├── EngineError              500 server_error            engine_error
├── DeadlineExceededError          504 server_error            deadline_exceeded      never retried
└── UnavailableError               503 service_unavailable_error
    ├── OverloadedError            503                         server_is_overloaded   retry
    ├── KeysUnknownError           503                         keys_unknown           retry
    ├── ModelStartingError         503                         model_starting         retry
    ├── ModelFailedError           503                         model_unavailable      never retried
    └── ReplicaLostError           503                         engine_unavailable     retry

The constructor is `(message, *, param=None)` and nothing else, because errors cross deployment
handles by pickle. Status, types and codes follow OpenAI's published error guide; the retry hints
are the headers its SDKs obey (`retry-after`, `x-should-retry`).
"""

from typing import Any, Self


class ApiError(Exception):
    """Base of all errors that a client may be shown."""

    status = 500
    type = "server_error"
    code = "internal_error"
    retry_after_s: int | None = None
    """Seconds after which a retry makes sense; None says nothing."""
    should_retry: bool | None = None
    """False stops the SDKs from sending the work a second time; None leaves it to them."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        """Store a message written for the client, and the parameter at fault if there is one."""
        super().__init__(message)
        self.message = message
        self.param = param

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a call: the default would lose the keyword-only argument."""
        return _rebuild, (type(self), self.message, self.param), self.__dict__

    def body(self) -> dict[str, Any]:
        """The JSON object of OpenAI's error format, all four keys there.

        Source: OpenAI openapi.yaml, schema `Error`.
        """
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }

    def headers(self) -> dict[str, str]:
        """Response headers that this error asks for, beyond the content type."""
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(self.retry_after_s)
        if self.should_retry is not None:
            headers["x-should-retry"] = "true" if self.should_retry else "false"
        return headers


def _rebuild(cls: type[ApiError], message: str, param: str | None) -> ApiError:
    return cls(message, param=param)


def quote(text: str, max_chars: int = 64) -> str:
    """Shorten what a client sent, for an error message; `…` marks the cut."""
    return text if len(text) <= max_chars else text[:max_chars] + "…"


class InvalidRequestError(ApiError):
    """The request cannot be served as it is; repeating it will not help."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"

    @classmethod
    def value(cls, param: str, reason: str) -> Self:
        """Build the error for a parameter whose value is refused for a reason."""
        return cls(f"Invalid value for '{param}': {reason}.", param=param)


class MalformedBodyError(InvalidRequestError):
    """The body is not one JSON object in UTF-8."""

    code = "invalid_json"


class MissingParameterError(InvalidRequestError):
    """A required parameter is absent or null."""

    code = "missing_required_parameter"


class UnknownParameterError(InvalidRequestError):
    """The endpoint has no such parameter."""

    code = "unknown_parameter"


class UnsupportedParameterError(InvalidRequestError):
    """The parameter exists, but this service or model cannot honour it."""

    code = "unsupported_parameter"


class ContextLengthExceededError(InvalidRequestError):
    """The prompt, or the prompt and the answer asked for, do not fit the model's context."""

    code = "context_length_exceeded"


class WrongModelKindError(InvalidRequestError):
    """The model exists, but serves another endpoint."""

    code = "wrong_model_kind"


class InvalidImageError(InvalidRequestError):
    """A picture in a message cannot be used."""

    code = "invalid_image_url"


class InvalidImageFileError(InvalidRequestError):
    """A picture that was sent to be edited cannot be used."""

    code = "invalid_image_file"


class InvalidApiKeyError(InvalidRequestError):
    """No key, or not one that this service knows."""

    status = 401
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        """Name the scheme, as RFC 9110 §11.6.1 requires of a 401."""
        return {"www-authenticate": "Bearer"}


class InsufficientPermissionsError(InvalidRequestError):
    """The key is known, but does not open this."""

    status = 403
    code = "insufficient_permissions"


class RouteNotFoundError(InvalidRequestError):
    """There is no such URL."""

    status = 404
    code = "not_found"


class ModelNotFoundError(InvalidRequestError):
    """No model of that id is configured."""

    status = 404
    code = "model_not_found"


class KeyNotFoundError(InvalidRequestError):
    """There is no API key of that id or name."""

    status = 404
    code = "key_not_found"


class MethodNotAllowedError(InvalidRequestError):
    """The URL exists, but not for this method."""

    status = 405
    code = "method_not_allowed"
    allowed: str = ""

    def headers(self) -> dict[str, str]:
        """Name the methods that it takes, as RFC 9110 §15.5.6 requires of a 405."""
        return {"allow": self.allowed} if self.allowed else {}


class BodyTimeoutError(InvalidRequestError):
    """The client did not send its body in time."""

    status = 408
    code = "request_timeout"


class PayloadTooLargeError(InvalidRequestError):
    """The body is over the limit."""

    status = 413
    code = "payload_too_large"


class UnsupportedMediaTypeError(InvalidRequestError):
    """The body is not sent as plain JSON."""

    status = 415
    code = "unsupported_media_type"


class RateLimitError(ApiError):
    """The key is at one of its limits."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retry_after_ms: int | None = None
    """None if waiting does not help."""
    limit_headers: dict[str, str] = {}  # noqa: RUF012  # replaced, never changed
    """How the key's limits stand."""

    def headers(self) -> dict[str, str]:
        """When to try again: in seconds for all clients, in milliseconds for OpenAI's SDKs."""
        if self.retry_after_ms is None:
            return {**self.limit_headers, "x-should-retry": "false"}
        return {
            **self.limit_headers,
            "retry-after": str(-(-self.retry_after_ms // 1000)),
            "retry-after-ms": str(self.retry_after_ms),
        }


class InsufficientQuotaError(RateLimitError):
    """The key's quota of the day or the month is used up."""

    type = "insufficient_quota"
    code = "insufficient_quota"


class InternalError(ApiError):
    """A fault of ours; the log has the details under the request id."""


class EngineError(ApiError):
    """The engine gave up on this request."""

    code = "engine_error"


class DeadlineExceededError(ApiError):
    """The work took longer than the service allows; a retry would take as long again."""

    status = 504
    code = "deadline_exceeded"
    should_retry = False


class UnavailableError(ApiError):
    """Nothing can serve the request at the moment."""

    status = 503
    type = "service_unavailable_error"
    code = "server_is_overloaded"


class OverloadedError(UnavailableError):
    """All slots and all places in the queue are taken."""

    retry_after_s = 1


class KeysUnknownError(UnavailableError):
    """The API keys have not been looked up yet, so nobody can say whether this one opens."""

    code = "keys_unknown"
    retry_after_s = 2


class ModelStartingError(UnavailableError):
    """The model is being loaded."""

    code = "model_starting"
    retry_after_s = 5


class ModelFailedError(UnavailableError):
    """The model could not be loaded, and will not be until its configuration changes."""

    code = "model_unavailable"
    should_retry = False


class ReplicaLostError(UnavailableError):
    """The replica that held the request went away."""

    code = "engine_unavailable"
    retry_after_s = 1
