"""Every error a client can see; each knows its HTTP status, OpenAI type and code.

ApiError                      500 server_error
├── InvalidRequest            400 invalid_request_error   invalid_value
│   ├── MalformedBody         400                         invalid_json
│   ├── MissingParameter      400                         missing_required_parameter
│   ├── UnknownParameter      400                         unknown_parameter
│   ├── UnsupportedParameter  400                         unsupported_parameter
│   ├── ContextLengthExceeded 400                         context_length_exceeded
│   ├── WrongModelKind        400                         wrong_model_kind
│   ├── InvalidImage          400                         invalid_image_url
│   ├── InvalidImageFile      400                         invalid_image_file
│   ├── InvalidApiKey         401                         invalid_api_key
│   ├── InsufficientPermissions 403                       insufficient_permissions
│   ├── RouteNotFound         404                         not_found
│   ├── ModelNotFound         404                         model_not_found
│   ├── KeyNotFound           404                         key_not_found
│   ├── MethodNotAllowed      405                         method_not_allowed
│   ├── BodyTimeout           408                         request_timeout
│   ├── PayloadTooLarge       413                         payload_too_large
│   └── UnsupportedMediaType  415                         unsupported_media_type
├── RateLimited               429 rate_limit_error        rate_limit_exceeded    retry when it says
│   └── InsufficientQuota     429 insufficient_quota      insufficient_quota     never retried
├── InternalError             500 server_error            internal_error
├── EngineFailed              500 server_error            engine_error
├── DeadlineExceeded          504 server_error            deadline_exceeded      never retried
└── Unavailable               503 service_unavailable_error
    ├── Overloaded            503                         server_is_overloaded   retry
    ├── KeysUnknown           503                         keys_unknown           retry
    ├── ModelStarting         503                         model_starting         retry
    ├── ModelFailed           503                         model_unavailable      never retried
    └── ReplicaLost           503                         engine_unavailable     retry

The constructor is `(message, *, param=None)` and nothing else, because errors cross deployment
handles by pickle. Status, types and codes follow OpenAI's published error guide; the retry hints
are the headers its SDKs obey (`retry-after`, `x-should-retry`).
"""

from typing import Any


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


class InvalidRequest(ApiError):
    """The request cannot be served as it is; repeating it will not help."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class MalformedBody(InvalidRequest):
    """The body is not one JSON object in UTF-8."""

    code = "invalid_json"


class MissingParameter(InvalidRequest):
    """A required parameter is absent or null."""

    code = "missing_required_parameter"


class UnknownParameter(InvalidRequest):
    """The endpoint has no such parameter."""

    code = "unknown_parameter"


class UnsupportedParameter(InvalidRequest):
    """The parameter exists, but this service or model cannot honour it."""

    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    """The prompt, or the prompt and the answer asked for, do not fit the model's context."""

    code = "context_length_exceeded"


class WrongModelKind(InvalidRequest):
    """The model exists, but serves another endpoint."""

    code = "wrong_model_kind"


class InvalidImage(InvalidRequest):
    """A picture in a message cannot be used."""

    code = "invalid_image_url"


class InvalidImageFile(InvalidRequest):
    """A picture that was sent to be edited cannot be used."""

    code = "invalid_image_file"


class InvalidApiKey(InvalidRequest):
    """No key, or not one that this service knows."""

    status = 401
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        """Name the scheme, as RFC 9110 §11.6.1 requires of a 401."""
        return {"www-authenticate": "Bearer"}


class InsufficientPermissions(InvalidRequest):
    """The key is known, but does not open this."""

    status = 403
    code = "insufficient_permissions"


class RouteNotFound(InvalidRequest):
    """There is no such URL."""

    status = 404
    code = "not_found"


class ModelNotFound(InvalidRequest):
    """No model of that id is configured."""

    status = 404
    code = "model_not_found"


class KeyNotFound(InvalidRequest):
    """There is no API key of that id or name."""

    status = 404
    code = "key_not_found"


class MethodNotAllowed(InvalidRequest):
    """The URL exists, but not for this method."""

    status = 405
    code = "method_not_allowed"
    allowed: str = ""

    def headers(self) -> dict[str, str]:
        """Name the methods that it takes, as RFC 9110 §15.5.6 requires of a 405."""
        return {"allow": self.allowed} if self.allowed else {}


class BodyTimeout(InvalidRequest):
    """The client did not send its body in time."""

    status = 408
    code = "request_timeout"


class PayloadTooLarge(InvalidRequest):
    """The body is over the limit."""

    status = 413
    code = "payload_too_large"


class UnsupportedMediaType(InvalidRequest):
    """The body is not sent as plain JSON."""

    status = 415
    code = "unsupported_media_type"


class RateLimited(ApiError):
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


class InsufficientQuota(RateLimited):
    """The key's quota of the day or the month is used up."""

    type = "insufficient_quota"
    code = "insufficient_quota"


class InternalError(ApiError):
    """A fault of ours; the log has the details under the request id."""


class EngineFailed(ApiError):
    """The engine gave up on this request."""

    code = "engine_error"


class DeadlineExceeded(ApiError):
    """The work took longer than the service allows; a retry would take as long again."""

    status = 504
    code = "deadline_exceeded"
    should_retry = False


class Unavailable(ApiError):
    """Nothing can serve the request at the moment."""

    status = 503
    type = "service_unavailable_error"
    code = "server_is_overloaded"


class Overloaded(Unavailable):
    """All slots and all places in the queue are taken."""

    retry_after_s = 1


class KeysUnknown(Unavailable):
    """The API keys have not been looked up yet, so nobody can say whether this one opens."""

    code = "keys_unknown"
    retry_after_s = 2


class ModelStarting(Unavailable):
    """The model is being loaded."""

    code = "model_starting"
    retry_after_s = 5


class ModelFailed(Unavailable):
    """The model could not be loaded, and will not be until its configuration changes."""

    code = "model_unavailable"
    should_retry = False


class ReplicaLost(Unavailable):
    """The replica that held the request went away."""

    code = "engine_unavailable"
    retry_after_s = 1
